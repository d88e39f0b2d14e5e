"""BatchNorm statistics against those of the values themselves."""

from __future__ import annotations

import torch
from torch import nn

from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.data import Batch
from passes.recalibrate import normalisations, recalibrated


def test_statistics_are_those_of_the_images(case):
    program = case.state.program
    batches = case.ctx.data["calibration"].cached()
    assert list(normalisations(program)) == ["norm", "inner_norm", "outer_norm"]
    found = recalibrated(program, "inner_norm", normalisations(program)["inner_norm"], batches)
    net, taken = program.module, []
    net.inner.register_forward_hook(lambda module, args, output: taken.append(output))
    with torch.no_grad():
        for batch in batches:
            net(*batch.inputs)
    values = torch.cat(taken).double().movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(found["inner_norm.running_mean"], values.mean(0))
    torch.testing.assert_close(found["inner_norm.running_var"], values.var(0))
    net.inner._forward_hooks.clear()


def test_a_norm_that_is_called_twice_sees_both_values():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(x) + self.norm(3 * x)

    program, x = trace(Twice(), [TensorSpec((1, 2))]), torch.randn(50, 2)
    ((name, calls),) = normalisations(program).items()
    assert len(calls) == 2
    found = recalibrated(program, name, calls, [Batch((part,), None, 25) for part in x.chunk(2)])
    values = torch.cat([x, 3 * x]).double()
    torch.testing.assert_close(found["norm.running_mean"], values.mean(0))
    torch.testing.assert_close(found["norm.running_var"], values.var(0))
