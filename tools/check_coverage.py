"""Check what `make coverage` measured: at least 80 % of the lines of every file of detframe run in the tests.

    python tools/check_coverage.py [REPORT]

Prints the share of the whole and the files with the smallest shares, with the lines that no test runs. Exits with 1
where a file is below, or where one was not measured at all.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "output" / "coverage" / "coverage.json"
LEAST = 80.0
SHOWN = 15
# a file that is nothing without a library that `make setup` leaves out: it counts where the library is there
NEEDS = {"detframe/integrations/fiftyone.py": "fiftyone"}  # 350 MB, and older releases of plotly and OpenCV


def main(argv: list[str] | None = None) -> int:
    """Check a report; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("report", nargs="?", type=Path, default=REPORT, help="what coverage wrote as JSON")
    report = json.loads(parser.parse_args(argv).report.read_text(encoding="utf-8"))
    shares = shares_of(report)
    print(f"{report['totals']['percent_covered']:.1f} % of the lines of detframe; the least:")
    for name, share in sorted(shares.items(), key=lambda item: item[1])[:SHOWN]:
        print(f"{share:6.1f} % {name}  {lines_of(report, name)}")
    wrong = problems(shares, sources())
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


def shares_of(report: dict[str, Any]) -> dict[str, float]:
    """Per cent of the lines that ran, by file."""
    return {name.replace("\\", "/"): file["summary"]["percent_covered"] for name, file in report["files"].items()}


def lines_of(report: dict[str, Any], name: str) -> str:
    """The lines that did not run, neighbours as ranges: "12-14 30"."""
    ranges: list[list[int]] = []
    for line in report["files"][name]["missing_lines"]:
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges[:20])


def sources() -> list[str]:
    """The files of the library, as the report names them."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "detframe").rglob("*.py"))


def problems(shares: dict[str, float], files: list[str]) -> list[str]:
    """A sentence for each file that the tests do not run enough of."""
    unmeasured = [f"{name} is not in the report" for name in files if name not in shares]
    missing = {name for name, library in NEEDS.items() if importlib.util.find_spec(library) is None}
    return unmeasured + [
        f"{name}: {share:.1f} % of its lines run in the tests, at least {LEAST:.0f} % must"
        for name, share in sorted(shares.items())
        if share < LEAST and name not in missing
    ]


if __name__ == "__main__":
    sys.exit(main())
