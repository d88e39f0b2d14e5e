"""Random graphs, random legal plans: the rewritten network equals the masked original; costs are what is counted."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import costs
from pagcp_ir.planning import legal
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from tests.ir.random_nets import SIZE, random_net

numbers = st.lists(st.integers(0, 10_000), min_size=1, max_size=40)


def random_keep(channels: ChannelGraph, rng: np.random.Generator, ratio: float) -> Keep:
    """Cut free units one by one as long as the plan stays legal."""
    keep = channels.all
    for unit in rng.permutation(np.flatnonzero(channels.free)):
        if rng.random() < ratio:
            keep[unit] = False
            keep[unit] = not legal(channels, keep)
    return keep


def counted_macs(program: Program) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        program.module(*program.example_inputs(2))
    return counter.get_total_flops() // 2 // 2


def counted_params(program: Program) -> int:
    return sum(p.numel() for p in program.module.parameters())


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(numbers, st.integers(1, 9), st.integers(0, 1000), st.sampled_from([0.2, 0.5, 0.9]))
def test_masked_equals_rewritten_and_costs_are_what_is_counted(
    numbers: list[int], length: int, seed: int, ratio: float
) -> None:
    program = trace(random_net(numbers, length), [TensorSpec((1, 3, SIZE, SIZE))])
    channels = analyse(program)
    keep = random_keep(channels, np.random.default_rng(seed), ratio)
    cut = materialise(program, channels, keep)
    result = verify(program, channels, keep, cut)
    assert result.status == "exact", result
    after = costs(channels, keep)
    assert after == costs(channels.restrict(keep))
    assert after.macs == counted_macs(cut)
    assert after.params == counted_params(cut)
    assert costs(channels).macs == counted_macs(program)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(numbers, st.integers(1, 9), st.integers(0, 1000))
def test_cutting_twice_is_cutting_once(numbers: list[int], length: int, seed: int) -> None:
    program = trace(random_net(numbers, length), [TensorSpec((1, 3, SIZE, SIZE))])
    channels = analyse(program)
    rng = np.random.default_rng(seed)
    final = random_keep(channels, rng, 0.6)
    first = final | (rng.random(final.size) < 0.5)
    once = materialise(program, channels, final)
    twice = materialise(materialise(program, channels, first), channels.restrict(first), final)
    for name, tensor in once.tensors().items():
        assert torch.equal(tensor, twice.tensors()[name]), name
    x = program.example_inputs(3)
    for name, value in once.run(x).items():
        assert torch.allclose(value, twice.run(x)[name], atol=1e-5), name
