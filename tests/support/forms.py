"""Forms as Kazoo builds them."""

import io
import json
import tempfile

from receiver.core.body import Body
from receiver.senders.forms import FormBody

TYPE = "multipart/form-data; boundary="
B = "zJmZ+L3/idrM'DM8_mTL-NIgZBR3Au__mEKhsH-z_IR5z7Zz3hJ_2Oytmz8piq6F"
TELLS = {"call_id": "abc@10.0.0.1", "from": "Jörg", "custom": {"a": [1, None]}}


def form(content: bytes, document: object = TELLS, *, b: str = B) -> bytes:
    """A form just as Kazoo builds it: CRLF first, none last, no file name, no quotes."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"".join(
        [
            f"\r\n--{b}\r\ncontent-disposition: form-data; name=DOC\r\n".encode(),
            b"content-type: application/json\r\n\r\n",
            text,
            f"\r\n--{b}\r\ncontent-disposition: form-data; name=X.mp3\r\n".encode(),
            b"content-type: audio/mpeg\r\n\r\n",
            content,
            f"\r\n--{b}--".encode(),
        ]
    )


def extract(content: bytes) -> bytes:
    """What is taken for the recording in a form that holds `content`."""
    return read(form(content))


def read(data: bytes) -> bytes:
    body = FormBody(
        Body({"wsgi.input": io.BytesIO(data), "CONTENT_LENGTH": str(len(data))}), B.encode()
    )
    with body.as_file(tempfile.TemporaryFile, 1024) as file:
        file.seek(0)
        return file.read()
