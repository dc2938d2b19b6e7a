"""Write docs/config_reference.md from detframe/config/keys/; with --check only say whether it is up to date."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detframe.config.reference import reference_page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "config_reference.md"


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit code 1 where the page is out of date"
    )
    args = parser.parse_args()
    wanted = reference_page()
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == wanted:
        return 0
    if args.check:
        sys.stderr.write(f"{PAGE} is out of date; run `make docs`\n")
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
