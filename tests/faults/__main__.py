"""Kill runs: ``python -m tests.faults [--jobs 2] [--kills 60]``."""

import sys

from tests.faults import kills

if __name__ == "__main__":
    sys.exit(kills.main())
