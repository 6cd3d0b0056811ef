"""`python -m dljax` is the command `dljax`."""

import sys

from dljax.cli import main

if __name__ == "__main__":
    sys.exit(main())
