"""A .pt2 read back: its layers carry the names, widths and MACs that the channel graph has for the same network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export, save
from torch.nn import functional

from pagcp_ir.analyse import analyse
from pagcp_ir.cost import costs
from pagcp_ir.program import TensorSpec
from pagcp_ir.summary import summary_of_channels, summary_of_export, summary_of_pt2
from pagcp_ir.trace import trace
from specs.diagnostics import EmitError
from specs.diff import LayerRow


class Net(nn.Module):
    """Every kind of weighted layer, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depth = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 8, 1, groups=4, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.shared = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.grouped(functional.relu(self.depth(self.stem(x)))))
        x = self.up(x).mean((2, 3))
        out: Tensor = self.head(functional.relu(self.shared(functional.relu(self.shared(x)))))
        return out


def rows_of_graph(net: nn.Module) -> tuple[LayerRow, ...]:
    return summary_of_channels(analyse(trace(net, [TensorSpec((1, 3, 8, 8))])), "net").layers


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("batch", [2, 3])
def test_same_rows_as_the_channel_graph(batch: int, decomposed: bool) -> None:
    net = Net().eval()
    program = export(net, (torch.zeros(batch, 3, 8, 8),), dynamic_shapes=({0: Dim("batch")},))
    if decomposed:
        program = program.run_decompositions()
    summary = summary_of_export(program, "net")
    assert summary.layers == rows_of_graph(net)
    assert summary.costs == costs(analyse(trace(net, [TensorSpec((1, 3, 8, 8))])))


def test_from_a_file(tmp_path: Path) -> None:
    net = Net().eval()
    save(export(net, (torch.zeros(2, 3, 8, 8),)), tmp_path / "net.pt2")
    assert summary_of_pt2(tmp_path / "net.pt2").layers == rows_of_graph(net)


def test_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"nothing")
    with pytest.raises(EmitError, match=r"E609.*torch\.export cannot load the program"):
        summary_of_pt2(tmp_path / "net.pt2")
