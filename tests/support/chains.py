"""How pytest-xdist's workers share the tests: in chains, which each run in one of them.

A chain is what one file tests with one server, so that no server is started more often than in a
run without workers.
"""

import re

from xdist.scheduler import LoadScopeScheduling

SERVERS = (
    *("gunicorn", "nginx", "handover", "mod_proxy", "mod_wsgi", "accel", "xsendfile"),
    *("directory", "s3", "postgresql", "mariadb", "sqlite", "redis"),
)
SERVER = re.compile(rf"[\[-]({'|'.join(SERVERS)})[\]-]")
# They begin first, or the others would have ended long before them.
LONGEST = (
    "jobs/test_jobs_kill.py redis",
    "jobs/test_jobs_kill.py sqlite",
    "storage/test_backends.py mariadb",
    "storage/test_backends.py postgresql",
    "storage/test_backends.py s3",
    "storage/test_postgresql.py",
    "storage/test_mariadb.py",
    "catalog/test_catalog.py postgresql",
    "storage/test_moto.py",
    "storage/test_rclone.py",
    "page/test_browse_page.py",
    "senders/test_forms.py",
    "check/test_check.py",
    "storage/test_backends.py directory",
    "core/test_memory.py",
    "retention/test_holds.py postgresql",
    "retention/test_holds.py mariadb",
)


class Chains(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.removeprefix("tests/").partition("::")
        server = SERVER.search(test)
        return f"{file} {server[1]}" if server else file

    def _assign_work_unit(self, node) -> None:
        if longest := next((chain for chain in LONGEST if chain in self.workqueue), None):
            self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
