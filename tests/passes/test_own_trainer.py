"""finetune.trainer: the user's own code on the user's own model, cut in place, and what comes back of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from pagcp_cli.driver import compile_spec
from pagcp_cli.network import open_network
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.base import run_passes
from passes.callables import UserCode
from passes.finetune import Finetune
from passes.journal import Journal, read_journal
from passes.measure import mean_losses
from passes.own_trainer import cut_model
from passes.tasks import weighted
from passes.uniform import Uniform
from specs.diagnostics import DataError, PassError, VerifyError
from specs.options import FinetuneOptions, UniformOptions
from specs.spec import Spec, load_spec
from tests.cli.projects import NET, project
from tests.passes.conftest import make_net, make_state
from tests.running import EXAMPLES

TASKS = {"tasks": [{"name": "t", "loss": "mse_loss"}], "data": {"factory": "net:data"}}
TRAINERS = """
import torch
from torch import nn

seen = []


def scale(model, factor):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)


def settle(model):
    # statistics of images like those of the task, and nothing else
    seen.append((type(model).__name__, model.training, model.inner.out_channels, torch.rand(1).item()))
    with torch.no_grad():
        for _ in range(40):
            model(torch.randn(64, 3, 8, 8))


def another(model):
    settle(model)
    found = type(model)()
    for name, child in list(model.named_children()):
        setattr(found, name, child)
    return found


def ruin(model):
    scale(model, 3)


def narrow(model):
    model.label = nn.Linear(model.label.in_features, 3)


def lose(model):
    model.map.bias = None


def hook(model):
    model.stem.register_forward_hook(lambda module, args, output: output + 1)


def fail(model):
    raise ValueError("out of coffee")
"""


@pytest.fixture
def own(case, tmp_path):
    """A cut state whose statistics are off, and a context that can build the network anew."""
    (tmp_path / "trainers.py").write_text(TRAINERS)
    cut = run_passes([Uniform(UniformOptions(ratio=0.5))], case.state, case.ctx)
    program = replace(cut.program, module=cut.program.copy())
    with torch.no_grad():
        program.module.inner_norm.running_var.mul_(30)
    code = UserCode(lambda: fresh(), tmp_path)
    return replace(cut, program=program), replace(case.ctx, code=code, original=case.state.program)


def fresh():
    net = type(make_net())()
    net.load_state_dict(make_net().state_dict())
    return net


def trained(name, state, ctx):
    return Finetune(FinetuneOptions(trainer=f"trainers:{name}")).run(state, ctx).program


@pytest.fixture(autouse=True)
def forget():
    import sys

    yield
    sys.modules.pop("trainers", None)


def validation_loss(program, ctx):
    return weighted(ctx.tasks, mean_losses(program, ctx.tasks, ctx.data["validation"]))


@pytest.mark.parametrize("name", ["settle", "another"])
def test_it_trains_the_users_model_and_its_weights_come_back(own, tmp_path, name):
    state, ctx = own
    before, drawn = {n: t.clone() for n, t in state.program.tensors().items()}, torch.get_rng_state()
    with Journal(tmp_path / "journal.jsonl") as journal:
        after = trained(name, state, replace(ctx, journal=journal))
    assert torch.equal(torch.get_rng_state(), drawn)
    import trainers

    (seen,) = trainers.seen
    assert seen[:3] == ("Net", True, 6)
    assert validation_loss(after, ctx) < validation_loss(state.program, ctx)
    assert not torch.equal(after.tensors()["inner_norm.running_var"], before["inner_norm.running_var"])
    assert all(torch.equal(t, before[n]) for n, t in state.program.tensors().items())
    assert not after.module.training
    (told,) = read_journal(tmp_path / "journal.jsonl")
    assert (told["kind"], told["trainer"], told["kept"]) == ("trained", f"trainers:{name}", True)
    assert told["score"] > told["before"]


def test_what_is_no_better_is_dropped(own, tmp_path):
    state, ctx = own
    with Journal(tmp_path / "journal.jsonl") as journal:
        assert trained("ruin", state, replace(ctx, journal=journal)) is state.program
    told, warning = read_journal(tmp_path / "journal.jsonl")
    assert not told["kept"]
    assert warning["message"].startswith("what trainers:ruin made is dropped: it is no better on validation (-")


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("narrow", PassError, "error[P412]: trainers:narrow changed the shape of `label.weight` from [4, 4] to [3, 4]"),
        ("lose", PassError, "error[P412]: trainers:lose left no `map.bias` in the model"),
        ("hook", VerifyError, "error[V503]: what trainers:hook left of the model differs from the cut network by "),
        ("fail", DataError, "error[D703]: trainers:fail raised ValueError: out of coffee"),
        ("none", DataError, "error[D702]: trainers:none: trainers has no 'none'"),
    ],
)
def test_what_it_may_not_do(own, name, error, told):
    with pytest.raises(error) as caught:
        trained(name, *own)
    assert str(caught.value).startswith(told)


def test_a_network_without_a_factory_has_no_model_to_train(own):
    state, ctx = own
    with pytest.raises(PassError) as caught:
        trained("settle", state, replace(ctx, code=UserCode(None, ctx.code.folder)))
    assert str(caught.value) == (
        "error[P409]: finetune.trainer needs model.factory: it trains the model that the factory builds"
    )


class Wide(nn.Module):
    """Its forward names a width."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 8, 1, bias=False), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.conv(x)[:, :8].mean((2, 3)) * self.conv(x).shape[1])


def test_what_the_code_would_do_otherwise_is_refused(case):
    torch.manual_seed(0)
    net = Wide()
    state = make_state(trace(net, [TensorSpec((1, 3, 8, 8))]))
    cut = run_passes([Uniform(UniformOptions(ratio=0.5))], state, case.ctx)
    words = (
        r"error\[V503\]: the model, cut in place, differs from the cut network by \S+ of its output scale\n"
        r"  hint: its forward may name sizes or write weights in a way that was not seen; please report the network"
    )
    with pytest.raises(VerifyError, match=words):
        cut_model(cut, replace(case.ctx, code=UserCode(lambda: net)))


def test_new_biases_of_compensation_come_along(case):
    """`outer` reads cut channels and has a BatchNorm; a network without one gets a bias in its place."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 6, 1, bias=False), nn.ReLU(), nn.Conv2d(6, 1, 1))
    task = replace(case.ctx.tasks[1], output=None)
    ctx = replace(case.ctx, tasks=(task,), oracle=type(case.ctx.oracle)([task], case.ctx.data["calibration"].cached()))
    state = make_state(trace(net, [TensorSpec((1, 3, 8, 8))]))
    cut = run_passes([Uniform(UniformOptions(ratio=0.5, compensate="mean"))], state, ctx)
    assert "2.bias" in cut.program.tensors()
    import copy

    model = cut_model(cut, replace(ctx, code=UserCode(lambda: copy.deepcopy(net))))
    assert torch.equal(model[2].bias, cut.program.tensors()["2.bias"])


def test_digits_end_to_end(tmp_path):
    """A plan under which the code of forward can stay as it is, trained by ten lines of a user's own."""
    source = (EXAMPLES / "digits.py").read_text()
    source = source.replace("self.pool(features).flatten(1)", "self.pool(features).reshape(-1, 384)")
    source += """

def train(model):
    images = datasets(copies=1)["train"]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for start in range(0, 640, 64):
        x, y = zip(*(images[i] for i in range(start, start + 64)))
        found = model(torch.stack(x))
        loss = nn.functional.cross_entropy(found["digit"], torch.stack([t["digit"] for t in y]))
        loss = loss + 10 * nn.functional.mse_loss(found["denoise"], torch.stack([t["denoise"] for t in y]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""
    (tmp_path / "digits.py").write_text(source)
    (tmp_path / "digits.safetensors").write_bytes((EXAMPLES / "digits.safetensors").read_bytes())
    document = yaml.safe_load((EXAMPLES / "digits.yaml").read_text())
    document |= {
        "passes": [{"uniform": {"ratio": 0.4}}, {"finetune": {"trainer": "digits:train"}}],
        "export": ["python"],
        "budgets": {},
    }
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(document))
    result = compile_spec(load_spec(tmp_path / "spec.yaml"), tmp_path / "out")
    line = source[: source.index("reshape(-1, 384)")].count("\n") + 1
    found = [pin for pin in result.plan.pins if "finetune.trainer" in pin.reason]
    assert {pin.where for pin in found} == {f"digits.py:{line}"}
    assert {cut.group for cut in result.plan.cuts} == {
        *("encoder.stem.0", "encoder.block.first.0", "digit.hidden"),
        *("denoise.fuse.0", "denoise.up", "denoise.refine.0"),
    }
    records = read_journal(tmp_path / "out" / "journal.jsonl")
    (told,) = [r for r in records if r["kind"] == "trained"]
    assert told["kept"]
    pins = json.loads((tmp_path / "out" / "plan.json").read_text())["pins"]
    assert any(pin["where"] == f"digits.py:{line}" for pin in pins)


def test_a_trainer_in_rounds_pins_too(tmp_path):
    net = NET.replace("x.mean((2, 3))", "x.mean((2, 3)).view(-1, 8)")
    spec = load_spec(project(tmp_path, net=net))
    steps = [{"uniform": {"ratio": 0.5}}, {"finetune": {"trainer": "net:train"}}]
    rounds = Spec.model_validate({**spec.resolved(), **TASKS, "passes": [{"repeat": {"times": 2, "passes": steps}}]})
    rounds._path = spec.path
    before, after = (open_network(each)[1] for each in (spec, rounds))
    (pin,) = after.pins[len(before.pins) :]
    assert (pin.where, before.free.sum(), after.free.sum()) == ("net.py:17", 8, 0)
