"""`python -m tuner` is `tune`."""

import sys

from tuner.cli import main

sys.exit(main())
