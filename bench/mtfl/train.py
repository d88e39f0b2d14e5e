"""`python -m bench.mtfl.train`: the dense network, and how it is trained, for out/dense.safetensors beside the spec."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.mtfl.mtfl import FaceNet, augmented, parts
from bench.quick_quality.training import Recipe
from bench.worked import Worked

__all__ = ["EXAMPLE"]

EXAMPLE = Worked(
    name="mtfl",
    folder=Path(__file__).parent,
    data="mtfl48_gray.npz",
    build=FaceNet,
    part=lambda folder: parts(folder)["train"],
    augment=augmented,
    recipe=Recipe(epochs=40, lr=4e-3),
)

if __name__ == "__main__":
    sys.exit(EXAMPLE.train())
