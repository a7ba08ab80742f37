"""Known vulnerabilities of the pinned dependencies: `make audit`. Ends with 1 for any, with 2 where nobody can tell."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

OSV = "https://api.osv.dev/v1/query"
FOUND, UNKNOWN = 1, 2  # exit codes
TIMEOUT = 15  # seconds, of one question


def main(
    requirements: Annotated[Path, typer.Argument(exists=True, help="pinned, one a line")] = Path("requirements.txt"),
    osv: Annotated[str, typer.Option(help="the database, or a mirror of it")] = OSV,
) -> None:
    """Ask an OSV database about every pinned dependency."""
    try:
        dependencies = ask(requirements, osv)
    except ConnectionError as error:
        print(f"{osv} gives no answer, so nothing is known: {error}", file=sys.stderr)
        print("where the network ends here, run this elsewhere, or name a mirror: make audit OSV=URL", file=sys.stderr)
        raise typer.Exit(UNKNOWN) from None
    bad = [one for one in dependencies if one.get("vulns")]
    for one in bad:
        for problem in one["vulns"]:
            fixed = ", ".join(problem["fix_versions"]) or "no version"
            print(f"{one['name']} {one['version']}: {problem['id']}, fixed in {fixed}")
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    print(f"{len(dependencies) - len(skipped)} dependencies asked about, {len(bad)} with a known vulnerability")
    if skipped:
        print(f"not asked about: {', '.join(skipped)}")
    if bad:
        raise typer.Exit(FOUND)


def ask(requirements: Path, osv: str) -> list[dict[str, Any]]:
    """What pip-audit finds for each dependency.

    Raises
    ------
    ConnectionError
        If the database cannot be asked.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--osv-url", osv, "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", str(TIMEOUT)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except ValueError:
        words = done.stderr.strip().splitlines() or ["pip-audit said nothing"]
        raise ConnectionError(words[-1]) from None


if __name__ == "__main__":
    typer.run(main)
