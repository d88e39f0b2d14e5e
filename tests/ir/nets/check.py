"""What every random network has to satisfy: it is traced, cut exactly, costs what is counted, and its labels say
which channels passed which kind of op."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph, Keep
from pagcp_ir.cost import costs
from pagcp_ir.planning import legal
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from pagcp_ir.verify import verify
from specs.diagnostics import PagcpError
from tests.ir.nets.make import KEPT_WHOLE, KINDS, input_specs, random_net
from tests.ir.nets.net import Net, Recipe

RATIOS = (0.2, 0.5, 0.9)


@dataclass
class Coverage:
    """Per kind: in how many steps it occurred, and in how many a free channel passed it."""

    met: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    free: list[float] = field(default_factory=list)

    def note(self, net: Net, channels: ChannelGraph) -> None:
        free = channels.free
        self.free.append(float(free.sum()) / max(1, sum(g.units.size for g in channels.groups)))
        self.met.update(step.kind for step in net.steps)
        for kind, names in net.trail:
            axes = [channels.values[name].units for name in names if name in channels.values]
            self.passed[kind] += bool(axes) and all(bool(free[units].any()) for units in axes)

    def add(self, other: Coverage) -> None:
        self.met += other.met
        self.passed += other.passed
        self.free += other.free

    def never_passed(self) -> list[str]:
        """Kinds that occurred, but through which no channel was ever free to go, though the laws allow it."""
        return [kind for kind in KINDS if kind not in KEPT_WHOLE and self.met[kind] and not self.passed[kind]]

    def table(self) -> str:
        rows = [f"{'kind':<34}{'met':>7}{'passed':>8}"]
        for kind in KINDS:
            note = "  may be kept whole" if kind in KEPT_WHOLE else ""
            rows.append(f"{kind:<34}{self.met[kind]:>7}{self.passed[kind]:>8}{note}")
        return "\n".join([*rows, f"channels free to be cut: {np.mean(self.free):.0%}" if self.free else ""])


def recipes() -> SearchStrategy[Recipe]:
    """Recipes of 1 to 8 ops of all kinds, as hypothesis draws them: it repeats itself, and takes ops away to shrink."""
    salts = st.integers(0, 999)
    ops = st.lists(st.tuples(st.sampled_from(sorted(KINDS)), salts), min_size=1, max_size=8)
    return st.builds(Recipe, salts, ops.map(tuple))


def dealt(count: int, salt: int) -> list[Recipe]:
    """Recipes of five ops from a shuffled deck of all kinds: every kind occurs about as often as any other."""
    rng, cards = random.Random(salt), list[str]()
    while len(cards) < 5 * count:
        cards += rng.sample(sorted(KINDS), len(KINDS))
    hands = [cards[at : at + 5] for at in range(0, 5 * count, 5)]
    return [Recipe(rng.randrange(1000), tuple((kind, rng.randrange(1000)) for kind in hand)) for hand in hands]


def random_keep(channels: ChannelGraph, rng: np.random.Generator, ratio: float) -> Keep:
    """Cut free units one by one as long as the plan stays legal."""
    keep = channels.all
    for unit in rng.permutation(np.flatnonzero(channels.free)):
        if rng.random() < ratio:
            keep[unit] = False
            keep[unit] = not legal(channels, keep)
    return keep


def counted_macs(program: Program) -> int:
    """What torch's flop counter counts for one sample; it knows attention on a CPU in its plain form only."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        program.module(*program.example_inputs(2))
    return counter.get_total_flops() // 2 // 2


def counted_params(program: Program) -> int:
    return sum(p.numel() for p in program.module.parameters())


def check(recipe: Recipe, coverage: Coverage | None = None) -> None:
    """Raises AssertionError, or whatever pagcp raises, where one of the properties fails."""
    net = random_net(recipe)
    channels = check_model(net, input_specs(net), recipe.salt)
    if coverage is not None:
        coverage.note(net, channels)


def check_model(model: nn.Module, inputs: Sequence[TensorSpec], seed: int) -> ChannelGraph:
    """The properties for one model and one random plan; `seed` chooses the plan."""
    try:
        program = trace(model, inputs)
    except PagcpError as refused:
        raise AssertionError(f"refused: {refused}") from refused
    channels = analyse(program)
    rng = np.random.default_rng(seed)
    keep = random_keep(channels, rng, float(rng.choice(RATIOS)))
    cut = materialise(program, channels, keep)
    result = verify(program, channels, keep, cut)
    assert result.status == "exact" or _unread(program, channels, keep), result
    _check_costs(program, channels, keep, cut)
    if seed % 4 == 0:
        _check_twice(program, channels, keep, cut, rng)
    return channels


def _unread(program: Program, channels: ChannelGraph, keep: Keep) -> bool:
    """Whether no output depends on any layer that reads cut channels, as where a slice took others."""
    module = program.copy().requires_grad_(True)
    with torch.enable_grad():
        leaves = [v for v in _leaves(module(*program.example_inputs(2))) if v.requires_grad]
        sum((v.double().square().sum() for v in leaves), torch.zeros(())).backward()
    tensors = dict(module.named_parameters())
    readers = [tensors[b.tensor] for b in channels.bindings if b.role == "in" and not keep[b.units].all()]
    return all(reader.grad is None or not reader.grad.any() for reader in readers)


def _check_costs(program: Program, channels: ChannelGraph, keep: Keep, cut: Program) -> None:
    before, after = costs(channels), costs(channels, keep)
    assert before.macs == counted_macs(program), (before.macs, counted_macs(program))
    assert after == costs(channels.restrict(keep))
    if not any(layer.kind == "einsum" and keep[layer.inputs].sum() == 1 for layer in channels.layers):
        assert after.macs == counted_macs(cut), (after.macs, counted_macs(cut))  # torch multiplies where one is left
    assert after.params == counted_params(cut), (after.params, counted_params(cut))


def _check_twice(
    program: Program, channels: ChannelGraph, final: Keep, once: Program, rng: np.random.Generator
) -> None:
    """Cutting in two steps gives the same tensors and outputs as cutting at once."""
    first = final | (rng.random(final.size) < 0.5)
    first = first if legal(channels, first) else final
    twice = materialise(materialise(program, channels, first), channels.restrict(first), final)
    for name, tensor in once.tensors().items():
        assert torch.equal(tensor, twice.tensors()[name]), name
    x = program.example_inputs(3)
    for one, two in zip(_leaves(once.run(x)), _leaves(twice.run(x)), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4, equal_nan=True)


def _leaves(value: object) -> list[Tensor]:
    leaves: list[Tensor] = []
    for leaf in torch.utils._pytree.tree_leaves(value):
        leaves += [leaf] if isinstance(leaf, Tensor) else _leaves(vars(leaf)) if hasattr(leaf, "__dict__") else []
    return leaves
