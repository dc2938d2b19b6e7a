"""Write docs/config_reference.md from detframe/config/defaults.py; with --check only say whether it is up to date."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from detframe.config.reference import reference_page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where the page is out of date"
    )
    args = parser.parse_args()
    page = ROOT / "docs" / "config_reference.md"
    wanted = reference_page()
    if page.is_file() and page.read_text(encoding="utf-8") == wanted:
        return 0
    if args.check:
        sys.stderr.write(f"{page} is out of date; run `make docs`\n")
        return 1
    page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
