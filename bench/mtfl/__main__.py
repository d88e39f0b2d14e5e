"""`python -m bench.mtfl`: landmarks and four attributes of faces, at 40% of the MACs and of the parameters."""

from __future__ import annotations

import sys

from bench.mtfl.train import EXAMPLE

if __name__ == "__main__":
    sys.exit(EXAMPLE.main())
