"""Constructor calls are read back from modules, with non-default arguments only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pagcp_ir.emit.constructors import constructor
from pagcp_ir.emit.layout import flat
from pagcp_ir.emit.literals import Unprintable

CASES = [
    "nn.AdaptiveAvgPool2d((1, None))",
    "nn.AvgPool2d(2, stride=1)",
    "nn.BatchNorm2d(4, eps=0.001, momentum=None, affine=False)",
    "nn.Conv1d(2, 4, 3, stride=2)",
    'nn.Conv2d(2, 4, (3, 1), padding="same", padding_mode="circular")',
    "nn.Conv2d(4, 8, 3, dilation=2, groups=4, bias=False, dtype=torch.float64)",
    "nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, output_padding=(1, 0))",
    "nn.Dropout(0.1)",
    "nn.ELU(alpha=0.5)",
    "nn.Embedding(5, 8, padding_idx=0)",
    "nn.Flatten(2)",
    'nn.GELU("tanh")',
    "nn.GroupNorm(2, 4)",
    "nn.Hardtanh(-2.0, max_val=2.0)",
    "nn.Identity()",
    "nn.InstanceNorm2d(4, affine=True)",
    "nn.LSTM(6, 4, num_layers=2, batch_first=True, bidirectional=True)",
    "nn.LayerNorm((8,), bias=False)",
    "nn.LayerNorm((8,), elementwise_affine=False)",
    "nn.LeakyReLU(0.2, inplace=True)",
    "nn.Linear(4, 2, bias=False)",
    "nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)",
    "nn.MultiheadAttention(8, 2, bias=False, kdim=4, batch_first=True)",
    "nn.PReLU(4)",
    "nn.PixelShuffle(2)",
    "nn.ReLU(inplace=True)",
    "nn.RNN(3, 4)",
    "nn.SiLU()",
    "nn.Softmax(1)",
    "nn.Softmax(dim=None)",
    "nn.Threshold(0.1, 0.2)",
    "nn.Unflatten(1, (2, 2))",
    'nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)',
    "nn.Upsample((4, 4))",
    "nn.ZeroPad2d((1, 0, 1, 0))",
]


@pytest.mark.parametrize("text", CASES)
def test_constructor(text: str) -> None:
    module = eval(text, {"nn": nn, "torch": torch})
    printed = flat(constructor(module))
    again = eval(printed, {"nn": nn, "torch": torch})
    assert repr(again) == repr(module)
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in module.state_dict().items()}
    assert shapes == {name: (tuple(t.shape), t.dtype) for name, t in again.state_dict().items()}
    assert printed == {"nn.ELU(alpha=0.5)": "nn.ELU(0.5)", "nn.Softmax(dim=None)": "nn.Softmax()"}.get(text, text)


def test_an_argument_that_is_not_kept_is_refused() -> None:
    with pytest.raises(Unprintable, match="TransformerEncoderLayer does not keep its argument d_model"):
        constructor(nn.TransformerEncoderLayer(8, 2))
