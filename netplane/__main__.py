"""`python -m netplane` is the `netplane` command: supervisors start daemons by it, whatever PATH says."""

import sys

from netplane.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
