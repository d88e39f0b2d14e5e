"""Small user projects for tests: a network, its weights and a spec in a folder of their own."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.block(x))
        return self.head(x.mean((2, 3)))


def build(width=8):
    return Net(width)
"""

SPEC = """version: 1
model:
  factory: net:build
  args: {width: 8}
  weights: net.safetensors
  inputs: [[1, 1, 6, 6]]
passes:
  - uniform: {ratio: 0.5, criterion: l1}
export: [python]
"""


class _Twin(nn.Module):
    """The same tensors as the project's network, in a known state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.block = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 3)


def weights(width: int = 8) -> dict[str, Tensor]:
    """Seeded tensors for the project's network, with statistics that differ from channel to channel."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        twin = _Twin(width)
        twin.norm.running_mean.normal_()
        twin.norm.running_var.uniform_(0.5, 2)
        return {name: tensor.detach().clone() for name, tensor in twin.state_dict().items()}


def project(folder: Path, spec: str = SPEC, net: str = NET) -> Path:
    """Write the project into `folder` and return the path of its spec."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(net)
    (folder / "net.yaml").write_text(spec)
    save_file(weights(), folder / "net.safetensors")
    return folder / "net.yaml"
