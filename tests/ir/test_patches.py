"""Every weighted call is the product of its windows with its weights, whatever its kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pagcp_ir.patches import patches
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace

LAYERS = {
    "1x1": (nn.Conv2d(6, 4, 1), (6, 5, 7)),
    "3x3": (nn.Conv2d(6, 4, 3, padding=1), (6, 5, 7)),
    "strided": (nn.Conv2d(6, 4, (3, 2), stride=(2, 3), padding=(1, 2)), (6, 9, 10)),
    "dilated": (nn.Conv2d(6, 4, 3, padding=2, dilation=(2, 3)), (6, 9, 10)),
    "same": (nn.Conv2d(6, 4, (4, 3), padding="same", dilation=(1, 2)), (6, 6, 7)),
    "valid": (nn.Conv2d(6, 4, 3, padding="valid"), (6, 6, 7)),
    "grouped": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (6, 5, 7)),
    "reflected": (nn.Conv2d(6, 4, 3, padding=(2, 1), padding_mode="reflect"), (6, 5, 7)),
    "circular": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (6, 5, 7)),
    "1d": (nn.Conv1d(6, 4, 3, padding=1, stride=2), (6, 9)),
    "3d": (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1)), (2, 3, 4, 5)),
    "no bias": (nn.Conv2d(6, 4, 3, bias=False), (6, 5, 7)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3), (6, 4, 5)),
    "transposed, all": (
        nn.ConvTranspose2d(6, 4, (3, 2), (2, 3), (1, 0), output_padding=(1, 2), groups=2, dilation=(2, 1)),
        (6, 4, 5),
    ),
    "transposed, cropped": (nn.ConvTranspose2d(6, 4, 2, stride=1, padding=2), (6, 6, 6)),
    "transposed 1d": (nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1), (6, 5)),
    "linear": (nn.Linear(6, 4), (6,)),
    "linear on tokens": (nn.Linear(6, 4), (5, 6)),
    "linear on maps": (nn.Linear(6, 4, bias=False), (5, 3, 6)),
}


def check(program, inputs, tensors, node=None):
    node = node or next(n for n in program.module.graph.nodes if n.op.startswith("call_"))
    weight, bias = tensors
    found = patches(program, node, weight)
    x = torch.randn(inputs)
    y = program.run([x])
    count = found.count(y)
    assert count == y.numel() // 4
    rows = torch.randperm(count)[: max(1, count // 2)]
    got = torch.einsum("rgd,gdo->rgo", found.inputs(x, rows), found.matrix(weight)).flatten(1)
    torch.testing.assert_close(got + (0 if bias is None else bias), found.outputs(y, rows), rtol=1e-4, atol=1e-5)
    flat = y.movedim(found.axis, -1).reshape(-1, 4)
    assert torch.equal(found.outputs(y, rows), flat[rows])
    assert torch.equal(found.weight(found.matrix(weight)), weight)


@pytest.mark.parametrize("name", LAYERS)
def test_modules(name):
    layer, shape = LAYERS[name]
    program = trace(nn.Sequential(layer), [TensorSpec((1, *shape))])
    check(program, (3, *shape), (layer.weight.detach(), None if layer.bias is None else layer.bias.detach()))


class Functional(nn.Module):
    def __init__(self, weight, call):
        super().__init__()
        self.kernel, self.offset, self.call = nn.Parameter(weight), nn.Parameter(torch.randn(4)), call

    def forward(self, x):
        return self.call(x, self.kernel, self.offset)


@pytest.mark.parametrize(
    ("weight", "call"),
    [
        ((4, 3, 3, 2), lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 0), 1, 2)),
        ((4, 6, 2, 2), lambda x, w, b: F.conv2d(x, w, b, dilation=2, padding="same")),
        ((6, 2, 3, 2), lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, 1, 2)),
    ],
)
def test_functions(weight, call):
    net = Functional(torch.randn(weight), call)
    program = trace(net, [TensorSpec((1, 6, 5, 7))])
    node = next(n for n in program.module.graph.nodes if n.op in ("call_function", "call_module"))
    check(program, (3, 6, 5, 7), (net.kernel.detach(), net.offset.detach()), node)


def test_an_image_without_a_batch():
    layer = nn.Conv2d(6, 4, 3, padding=1)
    program = trace(nn.Sequential(nn.Conv2d(6, 6, 1), layer), [TensorSpec((1, 6, 5, 7))])
    node = next(n for n in program.module.graph.nodes if n.target == "1")
    found, x = patches(program, node, layer.weight), torch.randn(6, 5, 7)
    rows = torch.arange(35)
    got = torch.einsum("rgd,gdo->rgo", found.inputs(x, rows), found.matrix(layer.weight)).flatten(1) + layer.bias
    torch.testing.assert_close(got, found.outputs(layer(x), rows), rtol=1e-4, atol=1e-5)


class Told(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2)

    def forward(self, x):
        return self.up(x, output_size=[10, 10])


def test_a_call_whose_output_size_is_told_is_not_understood():
    program = trace(Told(), [TensorSpec((1, 3, 4, 4))])
    node = next(n for n in program.module.graph.nodes if n.op == "call_module")
    assert patches(program, node, program.tensors()["up.weight"]) is None
