"""Tracing, analysing, cutting and proving a ResNet-50 at 224 pixels takes less than 1 GB beyond the network."""

from __future__ import annotations

import subprocess
import sys

from tests.running import ROOT

SCRIPT = """
import numpy as np, torch
from torch import Tensor, nn
from bench.zoo.process import peak_bytes, reset_peak
from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify

def conv(inside, outside, size=1, stride=1):
    return nn.Sequential(nn.Conv2d(inside, outside, size, stride, size // 2, bias=False), nn.BatchNorm2d(outside))

class Bottleneck(nn.Module):
    def __init__(self, inside, inner, stride):
        super().__init__()
        self.a, self.b, self.c = conv(inside, inner), conv(inner, inner, 3, stride), conv(inner, 4 * inner)
        self.d = conv(inside, 4 * inner, 1, stride) if stride > 1 or inside != 4 * inner else nn.Identity()

    def forward(self, x):
        return torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))) + self.d(x))

def resnet50():
    layers, inside = [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for inner, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            layers.append(Bottleneck(inside, inner, stride if i == 0 else 1))
            inside = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000)).eval()

trace(resnet50(), [TensorSpec((1, 3, 32, 32))])  # what torch itself loads on first use
model = resnet50()
before = reset_peak()
program = trace(model, [TensorSpec((1, 3, 224, 224))])
channels = analyse(program)
keep = channels.all
for group in channels.groups:
    keep[group.units[channels.free[group.units]][::2]] = False
cut = materialise(program, channels, keep)
rewritten = peak_bytes() - before
status = verify(program, channels, keep, cut).status
print(status, round(rewritten / 1e6), round((peak_bytes() - before) / 1e6))
"""


def test_a_resnet50_takes_less_than_a_gigabyte() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    status, rewritten, proven = done.stdout.split()
    assert status == "exact"
    assert int(rewritten) < 1000, f"{rewritten} MB"
    assert int(proven) < 1000, f"{proven} MB"
