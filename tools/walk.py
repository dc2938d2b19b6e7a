"""Walk the way of docs/first_contribution.md: every command of the page, in a fresh clone in an empty folder, timed.

    python tools/walk.py            # in a temporary folder, which is removed
    python tools/walk.py --write    # and write the table of the page anew

The clone is one of this checkout as it is committed; the fork that the last step pushes to is a bare repository beside
it. Ends with the first step that fails, and its exit code.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import date
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "first_contribution.md"
STEP = re.compile(r"^## ([^\n]+)\n(?:(?!^## |^```)[^\n]*\n)*```bash\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"(?<=<!-- walk -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)
NAME, MAIL = "A newcomer", "newcomer@localhost"


def main(argv: list[str] | None = None) -> int:
    """Walk; the exit code of the step that failed, else 0."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="detframe-walk-") as folder:
        code, seconds = walk(steps(PAGE.read_text(encoding="utf-8")), Path(folder))
    print(table(seconds))
    if args.write and code == 0:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(TABLE.sub(lambda _: table(seconds), text), encoding="utf-8")
    return code


def steps(page: str) -> dict[str, str]:
    """The commands of each section that has any."""
    return dict(STEP.findall(page))


def walk(commands: dict[str, str], folder: Path) -> tuple[int, dict[str, float]]:
    """Run the steps one after another in one shell; the exit code, and the seconds of each step that ended."""
    fork, times = folder / "fork.git", folder / "times.txt"
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, fork], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"REPOSITORY": str(ROOT), "FORK": str(fork)}
    for who in ("AUTHOR", "COMMITTER"):
        environment |= {f"GIT_{who}_NAME": NAME, f"GIT_{who}_EMAIL": MAIL}
    home = folder / "newcomer"
    home.mkdir()
    done = subprocess.run(["bash", "-c", script(commands, times)], cwd=home, env=environment, check=False)
    stamps = [float(line) for line in times.read_text(encoding="utf-8").split()]
    seconds = [later - earlier for earlier, later in pairwise(stamps)]
    return done.returncode, dict(zip(commands, seconds, strict=False))


def script(commands: dict[str, str], times: Path) -> str:
    """All steps as one script, which notes the time before the first step and after each."""
    stamp = f'date +%s >> "{times}"\n'
    parts = [f"echo; echo '== {title}'\n{text}{stamp}" for title, text in commands.items()]
    return "set -euo pipefail\n" + stamp + "".join(parts)


def table(seconds: dict[str, float]) -> str:
    """The seconds of each step, the sum, and what was measured on what."""
    rows = [f"| {title} | {value:.0f} |" for title, value in seconds.items()]
    rows.append(f"| all | {sum(seconds.values()):.0f} |")
    commit = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    where = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {date.today()}"
    note = f"Measured by `python tools/walk.py --write`: a clone of {commit}, {where}."
    return "\n".join(["| step | seconds |", "|---|---|", *rows, "", note, ""])


if __name__ == "__main__":
    sys.exit(main())
