"""Plans and keep-sets: legality, refusals, the tensors map, the fingerprint, and the check that refuses a wrong cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pagcp_ir.analyse import analyse
from pagcp_ir.channels import ChannelGraph
from pagcp_ir.planning import fingerprint, keep_of, legal, make_plan, require_free_units
from pagcp_ir.program import Program, TensorSpec
from pagcp_ir.rewrite import materialise, require_shapes
from pagcp_ir.trace import trace
from pagcp_ir.verify import distance, floats, require_exact, verify
from specs.diagnostics import GraphError, PlanError, VerifyError
from specs.plan import Plan, indices


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.out = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.out(torch.sigmoid(self.norm(y + self.b(y))).mean((2, 3)))


@pytest.fixture
def built() -> tuple[Program, ChannelGraph]:
    torch.manual_seed(0)
    program = trace(Residual(), [TensorSpec((1, 3, 8, 8))])
    return program, analyse(program)


def cut(channels: ChannelGraph, *removed: int) -> np.ndarray:
    keep = channels.all
    keep[channels.group("a").units[list(removed)]] = False
    return keep


def test_plan_and_keep_set_are_the_same_thing(built: tuple[Program, ChannelGraph]) -> None:
    program, channels = built
    keep = cut(channels, 0, 3)
    plan = Plan.from_json(make_plan(program, channels, keep).to_json())
    assert (keep_of(channels, plan) == keep).all()
    assert [(c.group, c.width, c.removed) for c in plan.cuts] == [("a", 6, (0, 3))]
    assert [(p.group, p.units, p.reason) for p in plan.pins] == [("out", (0, 1, 2, 3), "graph output")]


def test_the_tensors_map_alone_rebuilds_every_tensor(built: tuple[Program, ChannelGraph]) -> None:
    program, channels = built
    keep = cut(channels, 0, 3)
    tensors = json.loads(make_plan(program, channels, keep).to_json())["tensors"]
    rewritten = materialise(program, channels, keep).tensors()
    for name, tensor in program.tensors().items():
        for dim, kept in tensors.get(name, {}).items():
            tensor = tensor.index_select(int(dim), torch.tensor(indices(tuple(map(tuple, kept)))))
        assert torch.equal(tensor, rewritten[name]), name
    assert set(tensors) == {
        *("a.weight", "a.bias", "b.weight", "b.bias", "norm.weight", "norm.bias"),
        *("norm.running_mean", "norm.running_var", "out.weight"),
    }


def test_what_is_legal(built: tuple[Program, ChannelGraph]) -> None:
    channels = built[1]
    assert legal(channels, cut(channels, 0, 1, 2, 3, 4))
    assert not legal(channels, cut(channels, 0, 1, 2, 3, 4), min_channels=2)
    assert not legal(channels, cut(channels, 0, 1, 2, 3, 4, 5))
    keep = channels.all
    keep[channels.group("out").units[0]] = False
    assert not legal(channels, keep)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda d: d["cuts"][0].update(group="aa"), "the plan cuts group `aa`, which this network lacks"),
        (lambda d: d["cuts"][0].update(width=7), "the plan has group `a` at width 7, the network 6"),
    ],
)
def test_a_plan_of_another_network_is_refused(built: tuple[Program, ChannelGraph], edit: object, text: str) -> None:
    program, channels = built
    data = json.loads(make_plan(program, channels, cut(channels, 0)).to_json())
    edit(data)  # type: ignore[operator]
    with pytest.raises(PlanError, match=r"L805") as caught:
        keep_of(channels, Plan.from_json(json.dumps(data)))
    assert caught.value.diagnostics[0].message == text


def test_the_fingerprint_follows_weights_and_graph(built: tuple[Program, ChannelGraph]) -> None:
    program, channels = built
    torch.manual_seed(0)
    again = trace(Residual(), [TensorSpec((1, 3, 8, 8))])
    assert fingerprint(again) == fingerprint(program)
    with torch.no_grad():
        again.tensors()["out.bias"][0] += 1e-6
    assert fingerprint(again) != fingerprint(program)
    assert fingerprint(materialise(program, channels, cut(channels, 1))) != fingerprint(program)


def test_nothing_to_cut_names_the_reason_per_group() -> None:
    class Pinned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).softmax(1))

    with open(__file__, encoding="utf-8") as source:
        line = next(n for n, text in enumerate(source, 1) if "return self.b(self.a(x).softmax(1))" in text)
    with pytest.raises(GraphError) as caught:
        require_free_units(analyse(trace(Pinned(), [TensorSpec((1, 3, 8, 8))])))
    assert str(caught.value) == (
        f"tests/ir/test_planning.py:{line}  error[G301]: group `a` (6 channels) is pinned: "
        "`softmax` runs over the channels\n"
        f"tests/ir/test_planning.py:{line}  error[G301]: group `b` (4 channels) is pinned: "
        "graph output"
    )


@pytest.mark.parametrize("side", [("a.weight", 0), ("out.weight", 1), ("norm.running_mean", 0)])
def test_one_wrong_index_is_found(built: tuple[Program, ChannelGraph], side: tuple[str, int]) -> None:
    program, channels = built
    keep = cut(channels, 2, 4)
    wrong = materialise(program, channels, keep, {side: np.array([0, 1, 2, 5])})
    if side[0] == "norm.running_mean":
        with torch.no_grad():
            program.tensors()["norm.running_mean"].copy_(torch.arange(6.0))
        wrong = materialise(program, channels, keep, {side: np.array([0, 1, 2, 5])})
    result = verify(program, channels, keep, wrong)
    assert result.status == "wrong"
    with pytest.raises(VerifyError, match=r"V501.*differs from the masked original"):
        require_exact(result)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_reference_that_proves_nothing_is_unverifiable(built: tuple[Program, ChannelGraph], value: float) -> None:
    program, channels = built
    with torch.no_grad():
        program.tensors()["out.weight"].fill_(value)
    keep = cut(channels, 2)
    result = verify(program, channels, keep, materialise(program, channels, keep))
    assert result.status == "unverifiable"
    with pytest.raises(VerifyError, match=r"V502.*cannot be proven"):
        require_exact(result)


def test_materialise_leaves_the_program_alone(built: tuple[Program, ChannelGraph]) -> None:
    program, channels = built
    before = (program.text(), fingerprint(program))
    materialise(program, channels, cut(channels, 2))
    assert (program.text(), fingerprint(program)) == before


def test_a_cut_whose_shapes_are_not_those_of_its_labels_is_told() -> None:
    program = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    keep = channels.all
    keep[np.flatnonzero(channels.free)[:3]] = False
    with pytest.raises(GraphError) as caught:
        require_shapes(program, channels, channels.all, materialise(program, channels, keep))
    assert caught.value.diagnostics[0].code == "G303"
    assert caught.value.diagnostics[0].message == (
        "`_0` would have shape [2, 5, 8, 8] after the cut, its channels ask for [2, 8, 8, 8]"
    )


def test_a_layer_norm_keeps_two_channels() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.n, self.b = nn.Conv2d(3, 6, 1), nn.LayerNorm(6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.n(self.a(x).permute(0, 2, 3, 1)))

    channels = analyse(trace(Normed(), [TensorSpec((1, 3, 8, 8))]))
    keep = channels.all
    keep[channels.group("a").units[2:]] = False
    assert legal(channels, keep)
    keep[channels.group("a").units[1]] = False
    assert not legal(channels, keep)


def test_a_network_that_casts_to_float_is_compared_in_double() -> None:
    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x.float()).to(torch.float32)
            return self.b(y * torch.softmax(y.mean((2, 3), keepdim=True), 2, dtype=torch.float32))

    program = trace(Casts(), [TensorSpec((1, 3, 8, 8))])
    channels = analyse(program)
    keep = cut(channels, 1, 2)
    result = verify(program, channels, keep, materialise(program, channels, keep))
    assert (result.status, result.tolerance) == ("exact", 1e-9)


def test_dead_channels_where_kept_and_removed_ones_meet_prove_nothing_but_others_do() -> None:
    """Lossless cuts are the first that a criterion finds: exact, and a wrong index among live channels is found."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        net[0].bias[:8] = -100
    program = trace(net, [TensorSpec((1, 5))])
    channels = analyse(program)
    keep = channels.all
    keep[channels.groups[0].units[:4]] = False
    assert verify(program, channels, keep, materialise(program, channels, keep)).status == "exact"
    index = np.flatnonzero(keep[channels.groups[0].units])
    index[-1] = 0
    wrong = materialise(program, channels, keep, {("2.weight", 1): index})
    assert verify(program, channels, keep, wrong).status == "wrong"


def test_complex_outputs_are_compared_whole() -> None:
    """A difference in the imaginary part alone is one."""
    a, b = (floats(torch.tensor([1 + imaginary, 2.0], dtype=torch.complex128)) for imaginary in (1j, 2j))
    assert distance(a, b) > 0.1
    assert distance(a, a) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.complex64, torch.bool])
def test_tensors_of_every_kind_have_a_fingerprint(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    net.register_buffer("table", torch.ones(3).to(dtype))
    program = trace(net, [TensorSpec((1, 3))])
    program.module.register_buffer("table", torch.ones(3).to(dtype))
    first = fingerprint(program)
    program.module.table[0] = 0
    assert fingerprint(program) != first
