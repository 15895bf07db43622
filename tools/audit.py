"""Known vulnerabilities of the installed packages, by pip-audit; says so where it cannot tell.

``make audit`` runs it. Exit status 1 for a vulnerability, 0 for none and where no service of
vulnerabilities answers.
"""

import json
import subprocess  # of one fixed command, without a shell  # nosec B404
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PIP_AUDIT = [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off"]


def audit(*arguments: str) -> dict[str, Any]:
    """The report of pip-audit; one of no packages where it fails."""
    command = [*PIP_AUDIT, "--timeout", "5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)  # fixed  # nosec B603
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"dependencies": []}


def verdict(report: dict[str, Any]) -> tuple[list[str], int]:
    """What to print, and the exit status."""
    audited = [d for d in report["dependencies"] if "skip_reason" not in d]
    if not audited:
        return ["audit skipped: no service of vulnerabilities answers here"], 0
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in "
        f"{', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in audited
        for vulnerability in package["vulns"]
    ]
    skipped = len(report["dependencies"]) - len(audited)
    summary = f"{len(audited)} packages audited, {skipped} unknown, {len(lines)} vulnerabilities"
    return [*lines, summary], int(bool(lines))


def answers() -> bool:
    """Whether anything can be told of one package: offline, that many would take minutes."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "one.txt")
        file.write_text("pip==25.0\n")
        found = audit("--no-deps", "--disable-pip", "--requirement", str(file))
    return any("skip_reason" not in dependency for dependency in found["dependencies"])


def main() -> int:
    report = audit("--local", "--skip-editable") if answers() else {"dependencies": []}
    lines, status = verdict(report)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
