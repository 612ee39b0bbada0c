"""`python -m netplane` is the `netplane` command."""

import sys

from netplane.cli.main import main

sys.exit(main())
