"""`python -m rekindle` is the command `rekindle`."""

from __future__ import annotations

import sys

from rekindle.cli import main

if __name__ == "__main__":
    sys.exit(main())
