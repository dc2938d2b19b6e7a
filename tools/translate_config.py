"""The command `detframe translate-config` as a script; all of it is in detframe/cli/translate_config.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detframe.cli.translate_config import main

if __name__ == "__main__":
    sys.exit(main())
