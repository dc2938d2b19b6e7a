"""The command `detframe train-efpn` as a script; all of it is in detframe/cli/train_efpn.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detframe.cli.train_efpn import main

if __name__ == "__main__":
    sys.exit(main())
