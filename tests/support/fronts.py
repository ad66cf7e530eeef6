"""The servers that administrators put in front of the receiver, started with the shipped files."""

import fcntl
import os
import re
import shutil
import subprocess
from contextlib import closing
from functools import cache
from pathlib import Path
from socket import socket

import pytest

from support.clients import Storing
from support.folders import SHARED, world_readable_folder
from support.needs import need
from support.paths import PROJECT
from support.ports import free_port
from support.receivers import Receiver
from support.waiting import wait_for

DEPLOY = PROJECT / "deploy"
MODULES = Path("/usr/lib/apache2/modules")


def shipped(name: str, changes: dict[str, object]) -> str:
    """A file of deploy/ as it is shipped, with other names, ports and paths where it allows that.

    That is in the line below each CHANGE. Nothing else in it is touched, not even a comment.
    """
    lines = (DEPLOY / name).read_text().splitlines(keepends=True)
    may_change = False
    for number, line in enumerate(lines):
        continued = may_change and lines[number - 1].endswith("\\\n")
        above = lines[number + 1] if line.startswith("#!") else lines[number - 1] if number else ""
        may_change = continued or "CHANGE" in above
        for old, new in changes.items():
            if old in line and not line.lstrip().startswith("# CHANGE"):
                assert may_change or line.lstrip().startswith("#"), f"{name} has no CHANGE: {line}"
                lines[number] = line = line.replace(old, str(new)) if may_change else line
    return "".join(lines)


class Front(Storing):
    """A server on a port; `receiver` is the one behind it, if it is a process of its own."""

    program: str
    receiver: Receiver | None = None

    def __init__(self) -> None:
        need(self.program)  # before anything is started
        self.folder = world_readable_folder()
        self.port = free_port()
        self.storage = self.folder / "recordings"
        self.storage.mkdir(exist_ok=True)
        self.log_path = self.folder / "error.log"
        self.access_log_path = self.folder / "recordings.log"

    def run(self, *command: str | Path, **environ: str) -> None:
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | environ, cwd="/"
            )

        def is_up() -> bool:
            assert self.process.poll() is None, (self.folder / "output").read_text() + self.log
            with closing(socket()) as sock:
                is_open = sock.connect_ex(("127.0.0.1", self.port)) == 0
            # nginx answers before it writes its pid, and is not whole until then.
            return is_open and (self.program != "nginx" or (self.folder / "pid").exists())

        wait_for(is_up, why=f"{command[0]} to start")

    @property
    def log(self) -> str:
        log = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return log + (self.receiver.log if self.receiver else "")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        if self.receiver:
            self.receiver.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def stored(front: Front) -> dict[str, bytes]:
    """What is stored, once nginx has removed its own names of what it handed over."""

    def settled() -> list[dict[str, bytes]]:
        files = front.stored()
        return [] if any(".handover/" in path for path in files) else [files]

    return wait_for(settled)[0]


class NginxServer(Front):
    """nginx with any site."""

    program = "nginx"

    def serve(self, user: str, site: str) -> None:
        (self.folder / "nginx.conf").write_text(
            f"""
            {f"user {user};" if os.geteuid() == 0 else ""}
            daemon off;
            worker_processes auto;
            pid {self.folder}/pid;
            error_log {self.log_path};
            events {{ }}
            http {{
                access_log off;
                client_body_temp_path {self.folder}/bodies;
                proxy_temp_path {self.folder}/proxied;
                fastcgi_temp_path {self.folder}/fastcgi;
                uwsgi_temp_path {self.folder}/uwsgi;
                scgi_temp_path {self.folder}/scgi;
                {site}
            }}
            """
        )
        self.run(need(self.program), "-e", self.log_path, "-c", self.folder / "nginx.conf")


class Nginx(NginxServer):
    """nginx with deploy/nginx.conf; `edit` changes that text as an administrator would."""

    def __init__(
        self,
        *,
        handover: bool = False,
        edit=lambda text: text,
        options: tuple[str, ...] = (),
        **settings: object,
    ) -> None:
        super().__init__()
        bodies = self.storage / ".handover" if handover else self.folder / "bodies"
        if handover:
            settings = {"handover_dir": bodies} | settings
        settings = {"storage": self.storage, "trusted_proxies": 1, "min_free": 0} | settings
        self.receiver = Receiver(self.folder, *options, **settings)
        conf = shipped(
            "nginx.conf",
            {
                "listen 80;": f"listen 127.0.0.1:{self.port};",
                "/run/kazoo-receiver.sock": self.receiver.socket,
                "/srv/recordings/.handover": bodies,
                "/srv/recordings/": f"{self.storage}/",
                "/var/log/nginx/recordings.log": self.access_log_path,
            },
        )
        if handover:
            conf = uncomment_handover(conf)
        (self.folder / "site.conf").write_text(edit(conf))
        self.serve("root", f"include {self.folder}/site.conf;")


def uncomment_handover(conf: str) -> str:
    """Do what the comment above the handover's lines says."""
    before, marker, block = conf.partition("        # The handover:")
    directives = r"^( +)# ((?:client_body|proxy)_.*;)$"
    return before + marker + re.sub(directives, r"\1\2", block, flags=re.MULTILINE)


class Apache(Front):
    """Apache with one of the files in deploy/."""

    program = "apache2"
    modules = ("mpm_event", "authz_core", "reqtimeout", "headers", "proxy", "proxy_http", "wsgi")
    libraries: tuple[str, ...] = ()  # that modules want and do not load
    extra = ""

    def site(self, name: str, changes: dict[str, object]) -> str:
        """The shipped file, on this test's port and with its paths."""
        return shipped(name, {"*:80>": f"127.0.0.1:{self.port}>"} | changes)

    def start(self, site: str, **environ: str) -> None:
        load = "\n".join(f"LoadFile {library}" for library in self.libraries) + "\n"
        load += "\n".join(
            f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in self.modules
        )
        conf = f"""
            ServerRoot {self.folder}
            ServerName localhost
            PidFile {self.folder}/pid
            Mutex file:{self.folder}
            ErrorLog {self.log_path}
            LogLevel {"warn wsgi:info" if "wsgi" in self.modules else "warn"}
            Listen 127.0.0.1:{self.port}
            {load}
            User www-data
            Group www-data
            {self.extra}
            """
        (self.folder / "apache.conf").write_text(conf + site)
        command = [need(self.program), "-D", "FOREGROUND", "-f", self.folder / "apache.conf"]
        self.run(*command, APACHE_LOG_DIR=str(self.folder), **environ)

    def let_in(self) -> None:
        """Give the storage to Apache's user, whose processes write it."""
        if os.geteuid() == 0:
            shutil.chown(self.storage, "www-data", "www-data")


class ApacheProxy(Apache):
    def __init__(
        self, *, edit=lambda text: text, options: tuple[str, ...] = (), **settings: object
    ) -> None:
        super().__init__()
        settings = {"storage": self.storage, "trusted_proxies": 1, "min_free": 0} | settings
        self.receiver = Receiver(self.folder, *options, **settings)
        self.receiver.socket.chmod(0o666)  # as SocketMode=0660 with Apache's group would
        changes = {"/run/kazoo-receiver.sock": self.receiver.socket}
        self.start(edit(self.site("apache.conf", changes)))


class ModWsgi(Apache):
    def __init__(self, *, edit=lambda text: text, **settings: object) -> None:
        super().__init__()
        self.let_in()
        changes = {"/opt/kazoo-receiver": installed(), "/srv/recordings": self.storage}
        site = self.site("apache-wsgi.conf", changes)
        settings = {"storage": self.storage, "min_free": 0} | settings
        environ = {f"KZR_{name.upper()}": str(value) for name, value in settings.items()}
        self.start(edit(site), **environ)


class Htaccess(Apache):
    """A host of which only .htaccess can be edited: deploy/htaccess and deploy/receiver.cgi."""

    modules = ("mpm_event", "authz_core", "mime", "rewrite", "cgid")

    def __init__(self) -> None:
        super().__init__()
        self.let_in()
        root = self.folder / "htdocs"
        root.mkdir()
        shutil.copy(PROJECT / "deploy" / "htaccess", root / ".htaccess")
        changes = {"/opt/kazoo-receiver": installed(), "/srv/recordings": self.storage}
        (root / "receiver.cgi").write_text(shipped("receiver.cgi", changes))
        (root / "receiver.cgi").chmod(0o755)
        self.start(
            f"""
            ScriptSock {self.folder}/cgid
            TypesConfig /etc/mime.types
            DocumentRoot {root}
            <Directory {root}>
                AllowOverride All
                Require all granted
            </Directory>
            """
        )


KAZOO = "127.0.0.1"  # whose address has no limits, where the others of this machine have


def limited(conf: str) -> str:
    """A shipped file with Kazoo's address in place of those that are near."""
    conf = conf.replace("127.0.0.0/8 1;", f"{KAZOO}/32 1;")
    return conf.replace("QS_SrvMaxConnExcludeIP 10.", f"QS_SrvMaxConnExcludeIP {KAZOO}")


def need_limits() -> None:
    """Skip unless Apache has mod_qos (libapache2-mod-qos)."""
    if not (MODULES / "mod_qos.so").exists():
        pytest.skip("libapache2-mod-qos is not installed")


def with_limits(kind: type[Apache]) -> type[Apache]:
    """An Apache with mod_qos."""

    class WithQos(kind):  # type: ignore[misc, valid-type]
        modules = (*kind.modules, "qos")
        libraries = ("libpcre.so.3",)  # of Debian 12's

    return WithQos


@cache
def installed() -> Path:
    """The receiver in an environment of the system's Python, as mod_wsgi needs it; built once."""
    folder = Path(os.environ.get(SHARED) or world_readable_folder())
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "app.py").exists():
            subprocess.run(["/usr/bin/python3", "-m", "venv", folder / ".venv"], check=True)
            pip = [folder / ".venv/bin/pip", "install", "-q", "--disable-pip-version-check"]
            build = folder / "build"  # so that the tree itself stays clean
            ignore = shutil.ignore_patterns(".*", "tests", "recordings", "*.egg-info", "build")
            shutil.copytree(PROJECT, build, ignore=ignore)
            subprocess.run([*pip, f"{build}[catalog,jobs]"], check=True)
            shutil.copy(PROJECT / "app.py", folder)
    return folder


FRONTS = {
    "nginx": Nginx,
    "handover": lambda **settings: Nginx(handover=True, **settings),
    "mod_proxy": ApacheProxy,
    "mod_wsgi": ModWsgi,
}
