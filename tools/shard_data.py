"""The command `detframe shard-data` as a script; all of it is in detframe/cli/shard_data.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from detframe.cli.shard_data import main

if __name__ == "__main__":
    sys.exit(main())
