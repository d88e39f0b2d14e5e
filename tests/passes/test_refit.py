"""refit: exact where exactness is possible, never worse for any task, silent about nothing that it dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pagcp_cli.driver import compile_spec
from pagcp_ir.planning import make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.rewrite import materialise
from pagcp_ir.trace import trace
from passes.base import Context, run_passes
from passes.data import Batch
from passes.gate import Changed
from passes.journal import Journal, read_journal
from passes.oracle import RealOracle
from passes.readers import heads, readers
from passes.refit import Refit
from passes.tasks import Task
from passes.uniform import Uniform
from specs.diagnostics import DataError
from specs.options import RefitOptions, UniformOptions
from specs.spec import Budgets, load_spec
from tests.passes.conftest import make_state
from tests.running import EXAMPLES

ALL = [(mode, norms, outputs) for mode in ("bias", "lstsq") for norms in (False, True) for outputs in (False, True)]
LSTSQ = {"batchnorm": False, "heads": False}


def refit(**options):
    return Refit(RefitOptions(**options))


def measured(case, program):
    """Of a network as it stands, by an oracle that cuts nothing."""
    oracle = RealOracle(case.ctx.tasks, case.ctx.data["calibration"].cached())
    channels = case.state.channels
    return oracle.losses(program, replace(channels, bindings=(), values={}, layers=()), channels.all)


@pytest.mark.parametrize(("mode", "norms", "outputs"), ALL)
def test_no_task_is_worse_on_calibration_than_before(case, tmp_path, mode, norms, outputs):
    cut = run_passes([Uniform(UniformOptions(ratio=0.5))], case.state, case.ctx)
    before = {name: t.clone() for name, t in cut.program.tensors().items()}
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, journal=journal, original=case.state.program)
        after = run_passes([refit(mode=mode, batchnorm=norms, heads=outputs)], cut, ctx)
    losses = [measured(case, state.program) for state in (cut, after)]
    assert all(losses[1][task] <= losses[0][task] for task in losses[0])
    assert losses[1] != losses[0]
    records = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "refit"]
    kept = [r for r in records if r["kept"]]
    assert kept
    assert kept[-1]["losses"] == pytest.approx(losses[1], rel=1e-6)
    assert all(r.get("reason") for r in records if not r["kept"])
    assert all(torch.equal(t, before[name]) for name, t in cut.program.tensors().items())
    assert after.plan is cut.plan


def test_least_squares_wins_more_than_offsets(case):
    cut = run_passes([Uniform(UniformOptions(ratio=0.5))], case.state, case.ctx)
    losses = {
        mode: measured(case, refit(mode=mode, **LSTSQ).run(cut, replace(case.ctx, original=case.state.program)).program)
        for mode in ("bias", "lstsq")
    }
    assert losses["lstsq"]["map"] < losses["bias"]["map"] < measured(case, cut.program)["map"]


class Twice(nn.Module):
    """Every channel of `made` occurs twice (the second one scaled), so that half of them says all."""

    def __init__(self, made, *readers, between=None):
        super().__init__()
        with torch.no_grad():
            half = made.weight.shape[0] // 2
            made.weight[half:] = 1.5 * made.weight[:half]
            if made.bias is not None:
                made.bias[half:] = 1.5 * made.bias[:half]
        self.made, self.readers, self.between = made, nn.ModuleList(readers), between or nn.ReLU()

    def forward(self, x):
        x = self.between(self.made(x))
        return [reader(x) for reader in self.readers]


NETS = {
    "conv": lambda: Twice(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 3, padding=1)),
    "strided, dilated": lambda: Twice(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 3, 3, stride=2, dilation=2, padding=2)),
    "no bias": lambda: Twice(nn.Conv2d(2, 8, 1, bias=False), nn.Conv2d(8, 3, 3, bias=False)),
    "norm behind": lambda: Twice(
        nn.Conv2d(2, 8, 1), nn.Sequential(nn.Conv2d(8, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Sigmoid())
    ),
    "transposed": lambda: Twice(nn.Conv2d(2, 8, 1), nn.ConvTranspose2d(8, 3, 3, stride=2, output_padding=1)),
    "two readers": lambda: Twice(
        nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(8, 4, 3, padding_mode="reflect", padding=1)
    ),
    "one after another": lambda: Twice(
        nn.Conv2d(2, 8, 1), nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    ),
    "linear": lambda: Twice(
        nn.Conv2d(2, 8, 1), nn.Linear(8, 3), between=nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ),
    "flattened map": lambda: Twice(
        nn.Conv2d(2, 8, 1), nn.Linear(32, 3), between=nn.Sequential(nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
    ),
}


def halved(net, size=9, count=96):
    """The state with the second half of `made` cut, and a context with one task that tells every difference."""
    torch.manual_seed(1)
    net = net.eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    state = make_state(trace(net, [TensorSpec((1, 2, size, size))]))
    keep = state.channels.all
    units = state.channels.group("made").units
    keep[units[len(units) // 2 :]] = False
    images = torch.randn(count, 2, size, size)
    with torch.no_grad():
        wanted = net(images)

    def loss(output, target):
        return sum(functional.mse_loss(a, b) for a, b in zip(output, target, strict=True))

    batches = [Batch((images[i : i + 16],), [w[i : i + 16] for w in wanted], 16) for i in range(0, count, 16)]
    oracle = RealOracle([Task("same", loss=loss)], batches)
    ctx = Context(Budgets(), oracle=oracle, original=state.program, tasks=(Task("same", loss=loss),))
    cut = materialise(state.program, state.channels, keep)
    plan = make_plan(state.program, state.channels, keep)
    return replace(state, program=cut, plan=plan), ctx, images


def difference(dense, program, images):
    with torch.no_grad():
        pairs = list(zip(program.module(images), dense.module(images), strict=True))
    return max(float((a - b).abs().max() / b.std()) for a, b in pairs)


@pytest.mark.parametrize("name", NETS)
def test_what_the_kept_channels_say_is_told_exactly(name):
    torch.manual_seed(0)
    state, ctx, images = halved(NETS[name]())
    assert difference(ctx.original, state.program, images) > 0.3
    after = refit(**LSTSQ).run(state, ctx).program
    fresh = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    assert difference(ctx.original, after, fresh) < 0.01


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mode", ["bias", "lstsq"])
def test_offsets_go_where_the_norm_behind_has_its_mean(bias, mode):
    """Compensation has moved the mean that the BatchNorm takes off: what it gives is to be right again."""
    torch.manual_seed(0)
    net = Twice(nn.Conv2d(2, 8, 1), nn.Sequential(nn.Conv2d(8, 3, 3, bias=bias), nn.BatchNorm2d(3), nn.Sigmoid()))
    if mode == "bias":  # what is cut is constant
        with torch.no_grad():
            net.made.weight[4:] = 0
            net.made.bias[4:] = 2
    state, ctx, images = halved(net)
    name = "readers.0.1.running_mean"
    moved = Changed({name: state.program.tensors()[name] + torch.tensor([1.0, -2.0, 0.5])})
    state = replace(state, program=moved(state.program, state.keep))
    assert difference(ctx.original, state.program, images) > 0.3
    assert difference(ctx.original, refit(mode=mode, **LSTSQ).run(state, ctx).program, images) < 0.01


def test_grouped_convolutions_are_fitted_group_by_group():
    torch.manual_seed(0)
    net = Twice(nn.Conv2d(2, 16, 1), nn.Conv2d(16, 6, 3, groups=2))
    with torch.no_grad():  # in each part the second half repeats the first
        for tensor in (net.made.weight, net.made.bias):
            for part in (tensor[:8], tensor[8:]):
                part[4:] = 1.5 * part[:4]
    state, ctx, images = halved(net)
    assert state.program.tensors()["readers.0.weight"].shape == (6, 4, 3, 3)
    assert difference(ctx.original, state.program, images) > 0.3
    assert difference(ctx.original, refit(**LSTSQ).run(state, ctx).program, images) < 0.01


@pytest.mark.parametrize("positions", [200, 500])
def test_a_sample_of_the_positions_is_enough(positions):
    torch.manual_seed(0)
    state, ctx, images = halved(NETS["conv"]())
    fitted = refit(positions=positions, **LSTSQ).run(state, ctx).program
    assert difference(ctx.original, fitted, images) < 0.02


def test_a_layer_of_few_samples_keeps_its_weights():
    """60 images are 60 samples of a linear layer of 16 inputs, which 80 would tell."""
    torch.manual_seed(0)
    state, ctx, _ = halved(NETS["flattened map"](), count=60)
    told = []
    after = refit(**LSTSQ).run(state, replace(ctx, progress=lambda kind, row: told.append(row))).program
    assert [(row["what"], row["kept"]) for row in told] == [("lstsq", False), ("bias", True)]
    assert told[0]["reason"] == "60 samples do not tell the weights of 16 inputs, 80 do"
    before = state.program.tensors()["readers.0.weight"]
    assert torch.equal(after.tensors()["readers.0.weight"], before)


def test_constant_channels_are_made_up_for_by_offsets_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 3))
    with torch.no_grad():
        net[0].weight[4:] = 0
        net[0].bias[4:] = 1 + torch.rand(4)
    net = Twice(net[0], net[1], between=nn.Identity())
    with torch.no_grad():
        net.made.weight[4:] = 0
    state, ctx, images = halved(net)
    assert difference(ctx.original, state.program, images) > 0.3
    assert difference(ctx.original, refit(mode="bias", **LSTSQ).run(state, ctx).program, images) < 1e-4


def test_later_layers_are_fitted_to_repaired_inputs():
    """Two cut layers in a row: the second is right only if it was fitted to what the first gives once repaired."""
    torch.manual_seed(0)
    middle = Twice(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3))
    state, ctx, images = halved(Twice(nn.Conv2d(2, 8, 1), nn.Sequential(middle.made, nn.ReLU(), middle.readers[0])))
    keep = state.keep
    keep[state.channels.group("readers.0.0").units[4:]] = False
    program = materialise(ctx.original, state.channels, keep)
    state = replace(state, program=program, plan=make_plan(ctx.original, state.channels, keep))
    assert difference(ctx.original, program, images) > 0.3
    for memory in (1, 1024):  # targets of one reader at a time, or of both
        after = refit(memory_mb=memory, **LSTSQ).run(state, ctx).program
        assert difference(ctx.original, after, images) < 0.01


def test_wrong_statistics_are_put_right(case):
    program = replace(case.state.program, module=case.state.program.copy())
    with torch.no_grad():
        program.module.inner_norm.running_var.mul_(9)
        program.module.norm.running_mean.add_(0.5)
    before = measured(case, program)
    ctx = replace(case.ctx, original=case.state.program)
    after = refit(heads=False).run(replace(case.state, program=program), ctx).program
    now, dense = measured(case, after), measured(case, case.state.program)
    assert all(now[task] - dense[task] < 0.1 * (before[task] - dense[task]) for task in now)
    for name in ("norm.running_mean", "inner_norm.running_var"):
        torch.testing.assert_close(after.tensors()[name], case.state.program.tensors()[name], rtol=0.2, atol=0.05)


class Shared(nn.Module):
    """`twice` is called twice, `tied` is also read as a number, `label` and `map` are at the outputs."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)
        self.tied, self.label, self.map = nn.Linear(6, 6), nn.Linear(6, 4), nn.Conv2d(6, 1, 1)

    def forward(self, x):
        x = torch.relu(self.twice(torch.relu(self.twice(torch.relu(self.stem(x))))))
        pooled = torch.relu(self.tied(x.mean((2, 3)))) * self.tied.weight.sum()
        return {"label": torch.softmax(self.label(pooled), 1), "map": self.map(x)}


def test_who_can_be_fitted_and_who_is_at_an_output():
    state = make_state(trace(Shared().eval(), [TensorSpec((1, 3, 4, 4))]))
    found = {reader.name: reader for reader in readers(state)}
    assert list(found) == ["stem", "twice", "label", "map"]
    assert len(found["twice"].calls) == 2
    assert [reader.name for reader in heads(state.program, tuple(found.values()))] == ["label", "map"]
    assert not any(reader.loses for reader in found.values())


def test_heads_are_fitted_though_they_lose_nothing(case, tmp_path):
    """`label` reads the residual stream, which is whole; what comes in there has changed all the same."""
    keep = case.state.channels.all
    keep[case.state.channels.group("inner").units[:9]] = False
    program = materialise(case.state.program, case.state.channels, keep)
    state = replace(case.state, program=program, plan=make_plan(case.state.program, case.state.channels, keep))
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, original=case.state.program, journal=journal)
        after = refit(mode="bias", batchnorm=False).run(state, ctx).program
    told = {(r["layer"], r["what"]): r["kept"] for r in read_journal(tmp_path / "journal.jsonl")}
    assert told[("map", "lstsq")]
    assert ("label", "lstsq") in told
    assert not torch.equal(after.tensors()["map.weight"], program.tensors()["map.weight"])


def test_what_cannot_be_fitted_says_why(tmp_path):
    torch.manual_seed(0)
    state, ctx, _ = halved(NETS["no bias"]())
    for name, options in (("memory", {"memory_mb": 1, "positions": 100}), ("bias", {"mode": "bias"})):
        with Journal(tmp_path / name) as journal:
            wide = state if name == "bias" else halved(Twice(nn.Conv2d(2, 80, 1), nn.Conv2d(80, 3, 3, bias=False)))[0]
            refit(**LSTSQ, **options).run(wide, replace(ctx, journal=journal, original=ctx.original))
    told = [[r["reason"] for r in read_journal(tmp_path / name)] for name in ("memory", "bias")]
    assert told == [
        ["its equations need 5 MiB, memory_mb allows 1", "it has no bias, and no BatchNorm of its own behind it"],
        ["it has no bias, and no BatchNorm of its own behind it"],
    ]


def test_it_needs_the_tasks_and_their_data(case):
    assert RefitOptions.needs_tasks({})
    with pytest.raises(DataError) as caught:
        run_passes([refit()], case.state, replace(case.ctx, oracle=None, data=None))
    assert "refit measures the tasks' losses" in str(caught.value)


def test_digits_end_to_end(tmp_path):
    """At 40% of the MACs, without a single label: 41% of the digits are right before, 98% after."""
    result = compile_spec(load_spec(EXAMPLES / "digits_refit.yaml"), tmp_path / "out")
    after = {verdict.task: verdict.recovered for verdict in result.verdicts}
    assert after["digit"] > 0.97
    assert after["denoise"] > 23.5
    told = [r for r in read_journal(tmp_path / "out" / "journal.jsonl") if r["kind"] == "refit"]
    kept = [r for r in told if r["kept"]]
    for task in ("digit", "denoise"):  # no step on the way raised a loss either
        losses = [r["losses"][task] for r in kept]
        assert losses == sorted(losses, reverse=True)
    assert {r["what"] for r in kept} >= {"lstsq", "batchnorm"}
    assert {r["layer"] for r in told} >= {"digit.hidden", "denoise.up", "encoder.stem.1"}
