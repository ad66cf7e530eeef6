"""Asks a database of known vulnerabilities about every package that is installed here.

That is what the project and its tests need, with all extras. pip-audit asks; it is put into an
environment of its own, so that it neither changes what it looks at nor counts itself. First it is
asked about an old release with known vulnerabilities: a database that cannot be reached, or a
mirror that has only packages, would otherwise look like one without findings.

    python tests/proof/audit.py
    python tests/proof/audit.py --ignore CVE-2026-12345     one that was looked at

Without a database nothing is claimed: a line says so, there is no row, and the exit status is 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

from report import tell

CONTROL = "jinja2==2.10"  # CVE-2019-10906 and later ones
SERVICES = ("pypi", "osv")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def install(folder: str) -> str:
    """Put pip-audit into an environment in the folder; return its path."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([f"{folder}/bin/pip", "install", "-qq", "pip-audit"], check=True)
    return f"{folder}/bin/pip-audit"


def installed() -> str:
    """Every package of this environment but the project itself, as pinned requirements."""
    command = [sys.executable, "-m", "pip", "freeze", "--all", "--exclude", "kazoo-receiver"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def audit(program: str, service: str, requirements: str, ignored: list[str]) -> list[Any]:
    """Return what pip-audit found out about each package; nothing if it reached no database."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(requirements)
        file.flush()
        command = [program, "-s", service, "-r", file.name, "--no-deps", "--disable-pip"]
        command += [f"--ignore-vuln={vulnerability}" for vulnerability in ignored]
        command += ["--format=json", "--progress-spinner=off"]
        done = subprocess.run(command, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"]
    except ValueError:
        say(f"  {service}: {(done.stderr.strip().splitlines() or ['no answer'])[-1]}")
        return []


def reached(program: str) -> str | None:
    """The first database that knows the vulnerabilities of the old release."""
    for service in SERVICES:
        found = audit(program, service, CONTROL, [])
        if any(package.get("vulns") for package in found):
            return service
        if found:
            say(f"  {service}: knows nothing of {CONTROL}, which is known to be vulnerable")
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pip-audit", metavar="PATH", help="one that is installed already")
    parser.add_argument(
        "--ignore", action="append", default=[], metavar="ID", help="a vulnerability; repeatable"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        program = given.pip_audit
        if not program:
            say("installing pip-audit ...")
            try:
                program = install(folder)
            except subprocess.CalledProcessError:
                print("Not audited: pip-audit could not be installed here.")
                return 0
        service = reached(program)
        if not service:
            print(f"Not audited: could not reach the database ({' or '.join(SERVICES)}).")
            return 0
        say(f"asking {service} ...")
        packages = audit(program, service, installed(), given.ignore)

    skipped = [package for package in packages if "skip_reason" in package]
    for package in skipped:
        say(f"  not known there: {package['name']}")
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        ids = " ".join(vulnerability["id"] for vulnerability in package["vulns"])
        say(f"  {package['name']} {package['version']}: {ids}")
    figures = f"{len(packages) - len(skipped)} packages in {service}'s database, "
    figures += f"{len(vulnerable)} vulnerable, {len(skipped)} not known there"
    if given.ignore:
        figures += f", ignored: {' '.join(given.ignore)}"
    passed = bool(packages) and not vulnerable and not skipped
    return 0 if tell("known vulnerabilities of what is installed", figures, passed) else 1


if __name__ == "__main__":
    sys.exit(main())
