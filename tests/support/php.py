"""What the receiver is compared with: the PHP receiver, and nginx storing bodies by itself."""

import os
import shutil
import subprocess
import textwrap
from pathlib import Path

from support.fronts import MODULES, Apache, Front, NginxServer
from support.needs import need
from support.waiting import wait_for

# The PHP receiver of Kazoo's documentation: what it does, byte for byte, in as few lines.
SCRIPT = """<?php
$in = fopen("php://input", "r");
$recording = $_REQUEST["recording"];
$out = fopen("STORAGE/$recording", "w");
while ($data = fread($in, 1024))
    fwrite($out, $data);
fclose($out);
fclose($in);
"""
HTACCESS = r"""
<IfModule mod_rewrite.c>
RewriteEngine On
RewriteBase /
RewriteRule ^kzr/call_recording_(.+)\.(.+)$ kzr/index.php?recording=$1.$2 [QSA,L]
</IfModule>
"""
WORKERS = 16  # uploads at a time


def newest(folder: Path, pattern: str) -> Path:
    """The file of the newest version; without any, the test skips, or fails on CI."""
    return max(folder.glob(pattern), default=None) or Path(need(pattern))


def own_by_web_server(folder: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(folder, "www-data", "www-data")


def document_root(front: Front) -> Path:
    """A folder with the PHP receiver, which writes to the front's storage."""
    root = front.folder / "htdocs"
    (root / "kzr").mkdir(parents=True)
    (root / "kzr" / "index.php").write_text(SCRIPT.replace("STORAGE", str(front.storage)))
    (root / ".htaccess").write_text(HTACCESS)
    return root


class ModPhp(Apache):
    """The PHP receiver in Apache's own processes, as the documentation has it.

    PHP's settings are those of Debian's php.ini; its limits on sizes do not apply to PUT.
    """

    modules = ("mpm_prefork", "authz_core", "rewrite")

    def __init__(self) -> None:
        super().__init__()
        self.let_in()
        self.extra = f"""
            LoadModule php_module {newest(MODULES, "libphp*.so")}
            StartServers {WORKERS}
            MinSpareServers {WORKERS}
            MaxSpareServers {2 * WORKERS}
            """
        root = document_root(self)
        self.start(
            f"""
            DocumentRoot {root}
            <Directory {root}>
                AllowOverride All
                Require all granted
            </Directory>
            <FilesMatch "\\.php$">
                SetHandler application/x-httpd-php
            </FilesMatch>
            """
        )

    def run(self, *command: str | Path, **environ: str) -> None:
        # At its end, Apache with mpm_prefork kills its process group: not that of the tests.
        super().run(need("setsid"), *command, **environ)


class PlainNginx(NginxServer):
    """nginx with nothing of the receiver."""

    def start(self, server: str) -> None:
        own_by_web_server(self.storage)
        limits = f"listen 127.0.0.1:{self.port}; client_max_body_size 2g;"
        self.serve("www-data", f"server {{ {limits} {server} }}")


class NginxPhpFpm(PlainNginx):
    """The PHP receiver in processes of its own behind nginx, with the same rewrite rule."""

    def __init__(self) -> None:
        super().__init__()
        root = document_root(self)
        self.fpm = self.start_fpm()
        self.start(
            f"""
            root {root};
            rewrite ^/kzr/call_recording_(.+)\\.(.+)$ /kzr/index.php?recording=$1.$2 last;
            location = /kzr/index.php {{
                include /etc/nginx/fastcgi_params;
                fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
                fastcgi_pass unix:{self.folder}/php.sock;
            }}
            """
        )

    def start_fpm(self) -> subprocess.Popen:
        fpm = newest(Path("/usr/sbin"), "php-fpm*")
        listen = self.folder / "php.sock"
        conf = f"""
            [global]
            error_log = {self.folder}/fpm.log
            [www]
            user = www-data
            group = www-data
            listen = {listen}
            listen.mode = 0666
            pm = static
            pm.max_children = {WORKERS}
            """
        (self.folder / "fpm.conf").write_text(textwrap.dedent(conf))
        command = [fpm, "--nodaemonize", "--fpm-config", self.folder / "fpm.conf"]
        with (self.folder / "output").open("ab") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        wait_for(lambda: listen.exists() or process.poll(), why="php-fpm to start")
        assert process.poll() is None, (self.folder / "output").read_text()
        return process

    def stop(self) -> None:
        self.fpm.terminate()
        self.fpm.wait(30)
        super().stop()


class NginxDav(PlainNginx):
    """nginx's own PUT: nothing is decided, renamed or synced."""

    def __init__(self) -> None:
        super().__init__()
        self.start(
            f"""
            root {self.storage};  # beside the bodies: nginx renames them, and never copies
            dav_methods PUT;
            create_full_put_path on;
            """
        )
