"""`python -m bench.pets.train`: the dense network, and how it is trained, for out/dense.safetensors beside the spec."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.pets.pets import PetNet, augmented, parts
from bench.quick_quality.training import Recipe
from bench.worked import Worked

__all__ = ["EXAMPLE"]

EXAMPLE = Worked(
    name="pets",
    folder=Path(__file__).parent,
    data="pets600_96.npz",
    build=PetNet,
    part=lambda folder: parts(folder)["train"],
    augment=augmented,
    recipe=Recipe(epochs=150, lr=4e-3, batch_size=32),
)

if __name__ == "__main__":
    sys.exit(EXAMPLE.train())
