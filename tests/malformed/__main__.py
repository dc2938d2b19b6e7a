"""See what readers make of malformed inputs: all families, one family, or one case of it with its traceback.

python -m tests.malformed
python -m tests.malformed coco
python -m tests.malformed coco "images[0].width=2**63"
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
import time
from pathlib import Path

from tests.malformed import contract

FAMILIES = sorted(path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py"))
FAMILIES.remove("contract")  # that of the families themselves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", nargs="?", choices=FAMILIES)
    parser.add_argument("case", nargs="?")
    parser.add_argument("--messages", action="store_true", help="show the message of every refusal")
    args = parser.parse_args()
    for family in [args.family] if args.family else FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            show(family, args.case, Path(folder), args.messages)


def show(family: str, name: str | None, folder: Path, messages: bool) -> None:
    if name is not None:
        case = next(case for case in contract.cases_of(family, folder / "files") if case.name == name)
        print(case.run())
        return
    importlib.import_module(f"tests.malformed.test_{family}")
    start = time.perf_counter()
    tally = contract.run_apart(family, folder)
    for outcome in tally.outcomes if messages else ():
        print(f"{outcome.kind}: {outcome.case}: {outcome.text}")
    print(f"{tally.text(shown=1000)}\n({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    main()
