"""`python -m bench.pets`: pixels, breed and head of cats and dogs, at half of the MACs and of the parameters."""

from __future__ import annotations

import sys

from bench.pets.train import EXAMPLE

if __name__ == "__main__":
    sys.exit(EXAMPLE.main())
