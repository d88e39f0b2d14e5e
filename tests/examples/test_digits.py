"""The shipped example: disjoint splits, fixed samples, committed weights of the stated quality."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "specs" / "examples"
WEIGHTS = EXAMPLES / "digits.safetensors"


@pytest.fixture(scope="module")
def digits() -> Iterator[ModuleType]:
    """The example's module, imported as a user's spec imports it and forgotten afterwards."""
    before = set(sys.modules)
    folders = [str(EXAMPLES), str(ROOT / "examples")]
    sys.path.extend(folders)
    import digits as module

    yield module
    for folder in folders:
        sys.path.remove(folder)
    for name in {"digits", "train_digits"} - before:
        sys.modules.pop(name, None)


def test_splits_are_disjoint_and_cover_every_image(digits: ModuleType) -> None:
    splits = digits.datasets(copies=3)
    images = {name: {image.numpy().tobytes() for image in split.clean} for name, split in splits.items()}
    assert {name: len(found) for name, found in images.items()} == digits.SPLITS
    assert sum(digits.SPLITS.values()) == 1797
    assert digits.SPLITS["test"] >= 500
    assert len(splits["train"]) == 3 * digits.SPLITS["train"]
    for a, b in combinations(images, 2):
        assert not images[a] & images[b], f"{a} and {b} share images"


def test_samples_are_fixed_and_the_seed_changes_the_noise_alone(digits: ModuleType) -> None:
    first, again, other = digits.datasets(), digits.datasets(), digits.datasets(seed=1)
    for name in digits.SPLITS:
        noisy, target = first[name][7]
        assert torch.equal(noisy, again[name][7][0])
        assert torch.equal(noisy, first[name][7][0])
        assert not torch.equal(noisy, other[name][7][0])
        assert torch.equal(target["denoise"], other[name][7][1]["denoise"])
        assert target["digit"] == other[name][7][1]["digit"]
        assert not torch.equal(noisy, target["denoise"])


def test_no_two_splits_and_no_two_seeds_share_noise(digits: ModuleType) -> None:
    noise = [
        (split[0][0] - split[0][1]["denoise"]).numpy().tobytes()
        for seed in (0, 1, 2)
        for split in digits.datasets(seed).values()
    ]
    assert len(set(noise)) == len(noise)


def test_committed_weights_reach_the_stated_quality_on_test(digits: ModuleType) -> None:
    from train_digits import measure

    assert WEIGHTS.stat().st_size < 1_000_000
    model = digits.build()
    tensors = load_file(WEIGHTS)
    assert all(t.dtype == torch.float32 for name, t in tensors.items() if "num_batches" not in name)
    model.load_state_dict(tensors, strict=True)
    splits = digits.datasets()
    for name in ("calibration", "validation", "test"):
        accuracy, psnr, before = measure(model, splits[name])
        assert accuracy >= 0.97, name
        assert psnr >= 24.2, name
        assert psnr - before >= 4.0, name
