"""`python -m tncompile` is the command `tncompile`."""

import sys

from tncompile.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
