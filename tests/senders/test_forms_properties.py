"""Forms that hold any recording, as Hypothesis makes them up."""

import base64

import pytest

pytest.importorskip("hypothesis")

from hypothesis import given
from hypothesis import strategies as st

from support.forms import extract


class TestBase64:
    @given(st.binary(max_size=300))
    def test_recording_survives_as_it_is_and_encoded(self, data):
        recording = b"ID3\x03" + data
        assert extract(recording) == recording
        assert extract(base64.b64encode(recording)) == recording
