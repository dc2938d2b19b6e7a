"""The command `detframe check` as a script; all of it is in detframe/cli/check.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detframe.cli.check import main

if __name__ == "__main__":
    sys.exit(main())
