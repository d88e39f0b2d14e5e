"""Train the network of specs/examples/digits.yaml and write its weights: `python examples/train_digits.py`.

Seeded; about a minute on one CPU core. The committed specs/examples/digits.safetensors came from here.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, Dataset

EXAMPLES = Path(__file__).resolve().parents[1] / "specs" / "examples"
sys.path.append(str(EXAMPLES))
import digits  # noqa: E402

SPARSITY = 1e-3


@torch.no_grad()
def measure(model: nn.Module, data: Dataset[tuple[Tensor, digits.Target]]) -> tuple[float, float, float]:
    """Over one split: accuracy of `digit`, PSNR of `denoise` in dB, PSNR of the noisy input in dB."""
    model.eval()
    noisy, target = next(iter(DataLoader(data, batch_size=100_000)))
    output = model(noisy)
    accuracy = (output["digit"].argmax(1) == target["digit"]).float().mean().item()
    errors = [mse_loss(image, target["denoise"]).item() for image in (output["denoise"], noisy)]
    return accuracy, -10 * math.log10(errors[0]), -10 * math.log10(errors[1])


def train(model: nn.Module, splits: dict[str, digits.NoisyDigits], epochs: int, lr: float, seed: int) -> None:
    """AdamW with one cosine from `lr` to 0, on the loss of specs/examples/digits.yaml and a little more.

    A small L1 penalty on the BatchNorm scales lets channels that are not needed fade (network slimming, Liu et al.
    2017); smoothed labels keep the digit loss away from zero, where every relative rise would be a large one.
    """
    loader = DataLoader(
        splits["train"], 64, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(seed)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    scales = [layer.weight for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for epoch in range(epochs):
        model.train()
        for noisy, target in loader:
            output = model(noisy)
            loss = cross_entropy(output["digit"], target["digit"], label_smoothing=0.1)
            loss = loss + 10 * mse_loss(output["denoise"], target["denoise"])
            loss = loss + SPARSITY * torch.stack([scale.abs().sum() for scale in scales]).sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        accuracy, psnr, _ = measure(model, splits["validation"])
        print(f"epoch {epoch + 1}/{epochs}  validation: {accuracy:.2%}  {psnr:.2f} dB", file=sys.stderr)


def main() -> None:
    """Train, write the weights, print what they reach on every split."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--out", type=Path, default=EXAMPLES / "digits.safetensors")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)  # sums in one order: the same weights from every run on one machine
    model = digits.build()
    start = time.perf_counter()
    train(model, digits.datasets(copies=12), options.epochs, options.lr, options.seed)
    print(f"trained in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    save_file(model.state_dict(), options.out)
    for name, split in digits.datasets(copies=1).items():
        accuracy, psnr, before = measure(model, split)
        print(f"{name:11} {len(split):5} samples: digit {accuracy:.2%}, denoise {psnr:.2f} dB (noisy {before:.2f})")


if __name__ == "__main__":
    main()
