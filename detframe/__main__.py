"""`python -m detframe` is the command `detframe`."""

import sys

from detframe.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
