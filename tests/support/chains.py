"""How pytest-xdist's workers share the tests: in chains, which each run in one of them.

A chain is what one file tests with one server, so that hardly any is started more often than in a
run without workers.
"""

import re

from xdist.scheduler import LoadScopeScheduling

SERVERS = (
    *("gunicorn", "nginx", "handover", "mod_proxy", "mod_wsgi", "accel", "xsendfile"),
    *("directory", "s3", "postgresql", "mariadb", "sqlite"),
)
SERVER = re.compile(rf"[\[-]({'|'.join(SERVERS)})[\]-]")
CUT = "cut_at_any_request"  # in the names of tests that take as long as all others of their file
# They begin first, or the others would have ended long before them.
LONGEST = (
    "storage/test_moto.py cut",
    "jobs/test_jobs_kill.py mariadb",
    "jobs/test_jobs_kill.py postgresql",
    "jobs/test_jobs_kill.py sqlite",
    "storage/test_moto.py",
    "page/test_browse_page.py",
    "storage/test_killed.py",
    "commands/test_shell.py",
    "storage/test_rclone.py cut",
    "check/test_check.py",
    "storage/test_mariadb.py",
    "storage/test_postgresql.py",
    "storage/test_rclone.py",
    "deploy/test_attacks.py mod_wsgi",
    "senders/test_forms.py",
    "storage/test_backends.py postgresql",
    "storage/test_backends.py mariadb",
    "storage/test_backends.py s3",
    "check/test_check_fronts.py",
    "retention/test_verify.py mariadb",
    "core/test_faults.py",
    "core/test_memory.py",
)


class Chains(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.removeprefix("tests/").partition("::")
        if CUT in test:
            return f"{file} cut"
        server = SERVER.search(test)
        return f"{file} {server[1]}" if server else file

    def _assign_work_unit(self, node) -> None:
        if longest := next((chain for chain in LONGEST if chain in self.workqueue), None):
            self.workqueue.move_to_end(longest, last=False)
        super()._assign_work_unit(node)
