"""Activations that are used again change nothing but time: losses with and without them are equal bit by bit."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.answers import Answers
from passes.base import run_passes
from passes.data import Batch
from passes.journal import Journal
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from passes.tasks import Task
from specs.diagnostics import PassError
from specs.options import PagcpOptions


class Chain(nn.Module):
    """Three convolutions and a head; `between` is called after the first."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head, self.other = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def between(self, x):
        return torch.relu(x)

    def forward(self, x):
        x = self.between(self.a(x))
        return self.head(torch.relu(self.c(torch.relu(self.b(x)))))


class WrittenLater(Chain):
    """What the third convolution and the head read is written into after it was read."""

    def forward(self, x):
        x = torch.relu(self.a(x))
        y = self.b(x)
        z = self.c(y)
        y += x
        x.mul_(2)
        return self.head(functional.relu(z, inplace=True)) + self.other(x + y)


class Shared(Chain):
    """A view of what is written into is read later."""

    def forward(self, x):
        x = self.a(x)
        view = x[:, :, 1:]
        y = self.c(self.b(x))
        x.mul_(0.5)
        return self.head(torch.relu(y))[:, :, 1:] + self.other(view)


class InPlaceModule(Chain):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def between(self, x):
        return self.act(x) + self.act(x)


class Early(Chain):
    """An output from before the second convolution, and one that is a view of what is read later."""

    def forward(self, x):
        x = torch.relu(self.a(x))
        return {"early": x.mean((2, 3)), "self": x, "late": self.head(torch.relu(self.c(torch.relu(self.b(x)))))}


class Noise(Chain):
    def between(self, x):
        return functional.dropout(x, 0.3, training=True)


class NoisyInput(Chain):
    def forward(self, x):
        return super().forward(functional.dropout(x, 0.3, training=True))


class LateNoise(Chain):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.3, training=True)


class Parameters(Chain):
    """A weight that functions read, sizes, a strided view and numbers along the way."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def between(self, x):
        n = x.size(0)
        return (torch.relu(x) * self.scale).transpose(2, 3).reshape(n, 8, -1).unflatten(2, (6, 6))


class Own(nn.Module):
    """A module of the user's, kept whole: it may remember anything."""

    calls = 0

    def forward(self, x):
        if x.sum() < 0:
            return torch.relu(x)
        return torch.relu(x) * 2


class Opaque(Chain):
    def __init__(self):
        super().__init__()
        self.own = Own()

    def forward(self, x):
        return super().forward(self.own(x))


def make(net):
    torch.manual_seed(0)
    program = trace(net().eval(), [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    batches = [Batch((torch.randn(n, 3, 8, 8),), torch.randn(n, 1, 1, 1), n) for n in (8, 8, 9)]
    return program, channels, batches


def total(output, target):
    leaves = output.values() if isinstance(output, dict) else [output]
    return sum((leaf * target.view(-1, *[1] * (leaf.ndim - 1))).square().mean() for leaf in leaves)


def questions(channels):
    """What a search asks: each group deeper and deeper, the last but one stays cut; then some again from the start."""
    keep, asked = channels.all, [channels.all]
    groups = [group for group in channels.groups if channels.free[group.units].all()]
    assert len(groups) > 1
    for group in [*groups[::-1], *groups]:
        for count in (1, 2, 3):
            cut = keep.copy()
            cut[group.units[keep[group.units].nonzero()[0][:count]]] = False
            asked.append(cut)
        keep = asked[-2]
    return asked


def answers(net, megabytes, loss=total, samples=False, channels_last=False):
    program, channels, batches = make(net)
    oracle = RealOracle([Task("t", loss=loss)], batches)
    oracle.reuse(megabytes, channels_last)
    found = []
    for keep in questions(channels):
        if samples:
            for count in (1, 3):
                found.append(oracle.samples(program, channels, keep, count).values["t"].tolist())
        else:
            found.append(oracle.losses(program, channels, keep)["t"])
    hits = oracle._prefixes.hits if megabytes else 0
    return found, hits


@pytest.mark.parametrize("net", [Chain, WrittenLater, Shared, InPlaceModule, Early, Parameters, Noise, LateNoise])
def test_losses_are_the_same_bit_by_bit(net):
    found, hits = answers(net, 64)
    assert found == answers(net, 0)[0]
    assert hits > 9  # of 39 batches
    assert len(set(found)) > 6


@pytest.mark.parametrize("net", [Chain, WrittenLater, Shared, InPlaceModule, Early, Noise, LateNoise])
def test_channels_may_come_last(net):
    strides = []

    def loss(output, target):
        strides.append(next(iter(output.values())).stride(1) if isinstance(output, dict) else output.stride(1))
        return total(output, target)

    found, hits = answers(net, 64, loss, channels_last=True)
    assert net is Early or set(strides) == {1}
    assert found == answers(net, 0, channels_last=True)[0]
    if net not in (Noise, LateNoise):  # random numbers are drawn in the order of memory
        assert found == pytest.approx(answers(net, 0)[0], rel=1e-4)
    assert hits > 9


def test_a_network_that_needs_channels_first_is_refused():
    class Viewed(Chain):
        def forward(self, x):
            return torch.relu(self.b(self.a(x))).view(x.shape[0], -1)

    program, channels, batches = make(Viewed)
    oracle = RealOracle([Task("t", loss=lambda output, target: output.square().mean())], batches)
    usual = oracle.losses(program, channels, channels.all)
    oracle.reuse(0, True)
    with pytest.raises(PassError, match=r"P410.*does not run with channels last: view size"):
        oracle.losses(program, channels, channels.all)  # not the answer that is known
    oracle.reuse(0)
    with pytest.raises(PassError, match="P410"):
        oracle.losses(program, channels, channels.all)
    oracle.reuse(0, False)
    assert oracle.losses(program, channels, channels.all) == usual


def test_answers_in_another_order_have_another_name(tmp_path):
    program, channels, batches = make(Chain)
    found = []
    for _ in range(2):
        with Journal(tmp_path / "journal.jsonl", tmp_path / "rows") as journal:
            oracle = RealOracle([Task("t", loss=total)], batches, Answers(journal))
            for last in (False, True):
                oracle.reuse(64, last)
                found.append(oracle.losses(program, channels, channels.all)["t"])
    assert found[:2] == found[2:]
    assert len((tmp_path / "journal.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("net", [Chain, WrittenLater, Shared, InPlaceModule, Early, Parameters, Noise, LateNoise])
@pytest.mark.parametrize("megabytes", [0.02, 64])
def test_what_is_kept_ahead_changes_no_bit(net, megabytes):
    program, channels, batches = make(net)
    asked, expected = questions(channels), answers(net, 0)[0]
    for node in ("b", "c", "relu", "head", "nowhere"):
        oracle = RealOracle([Task("t", loss=total)], batches)
        oracle.reuse(megabytes)
        oracle.ahead(node)
        assert [oracle.losses(program, channels, keep)["t"] for keep in asked] == expected
        assert oracle._prefixes.used <= megabytes * 2**20


@pytest.mark.parametrize(("node", "hits"), [(None, 0), ("b", 3)])
def test_the_first_candidate_goes_on_from_what_was_kept_ahead(node, hits):
    program, channels, batches = make(Chain)
    oracle = RealOracle([Task("t", loss=total)], batches)
    oracle.reuse(64)
    oracle.ahead(node)
    oracle.losses(program, channels, channels.all)
    oracle.losses(program, channels, next(k for k in questions(channels) if not k[channels.group("b").units].all()))
    assert oracle._prefixes.hits == hits


def test_what_is_kept_ahead_displaces_nothing_that_the_candidate_goes_on_from():
    def hits(node):
        program, channels, batches = make(Chain)
        oracle = RealOracle([Task("t", loss=total)], batches)
        oracle.reuse(0.04)  # two batches of one of the activations
        oracle.losses(program, channels, channels.all)
        oracle.ahead(node)
        for count in (1, 2, 3, 4):
            keep = channels.all
            keep[channels.group("b").units[:count]] = False
            oracle.losses(program, channels, keep)
        return oracle._prefixes.hits

    assert hits("c") == hits(None) > 0


def test_samples_are_the_same_bit_by_bit():
    found, hits = answers(Chain, 64, samples=True)
    assert found == answers(Chain, 0, samples=True)[0]
    assert hits > 9


@pytest.mark.parametrize("net", [NoisyInput, Opaque])
def test_nothing_is_kept_after_what_is_no_function_of_its_input(net):
    found, hits = answers(net, 64)
    assert found == answers(net, 0)[0]
    assert hits == 0


def test_a_loss_may_write_into_its_outputs():
    def loss(output, target):
        value = total(output, target)
        for leaf in output.values():
            leaf.zero_()
        return value

    found, hits = answers(Early, 64, loss)
    assert found == answers(Early, 0, loss)[0] == answers(Early, 0)[0]
    assert hits > 9


def test_a_small_memory_holds_a_part():
    megabytes = 0.02  # a batch of one of the activations
    found, hits = answers(Chain, megabytes)
    assert found == answers(Chain, 0)[0]
    assert 0 < hits < answers(Chain, 64)[1]


def test_a_search_finds_the_same_with_and_without(case):
    def found(megabytes):
        options = PagcpOptions(cache_mb=megabytes, tolerance=0.3, total=1.8, grid=(0.25, 0.5, 0.75))
        after = run_passes([Pagcp(options)], case.state, case.ctx)
        return [replace(d, seconds=0.0) for d in after.decisions], after.searches[0].path

    assert found(0) == found(64)


def test_what_is_done_to_a_cut_network_counts():
    """A bias of the first layer that follows what is cut of the last."""

    def finish(cut, keep):
        module = cut.copy()
        module.get_submodule("a").bias.data += float(keep.sum())
        return replace(cut, module=module)

    def losses(megabytes):
        program, channels, batches = make(Chain)
        oracle = RealOracle([Task("t", loss=total)], batches)
        oracle.reuse(megabytes)
        asked = questions(channels)
        return [oracle.losses(program, channels, keep, f)["t"] for keep in asked for f in (None, finish)]

    assert losses(64) == losses(0)
