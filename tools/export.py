"""The command `detframe export` as a script; all of it is in detframe/cli/export.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detframe.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
