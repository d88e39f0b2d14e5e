"""What fine-tuning can be told: precision and device, clipping, moving averages, balance, going on after a kill."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanSquaredError

from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.balance import balanced
from passes.base import run_passes
from passes.ema import Ema
from passes.finetune import Course, Finetune
from passes.journal import Journal, read_journal
from passes.measure import mean_losses, measure, worst_margin
from passes.resume import Checkpoint
from passes.tasks import Task, weighted
from passes.training import Trainer
from passes.uniform import Uniform
from specs.diagnostics import PassError
from specs.options import FinetuneOptions, UniformOptions
from specs.spec import Guarantee


def finetune(**options):
    return Finetune(FinetuneOptions(**options))


@pytest.fixture
def cut(case):
    return run_passes([Uniform(UniformOptions(ratio=0.5))], case.state, case.ctx)


def tensors(program):
    return {name: t.detach().clone() for name, t in program.tensors().items()}


def validation_loss(program, case):
    return weighted(case.ctx.tasks, mean_losses(program, case.ctx.tasks, case.ctx.data["validation"]))


def margin_task(weight=1.0):
    return Task(
        "map",
        "map",
        "map",
        loss=functional.mse_loss,
        weight=weight,
        metric_name="MeanSquaredError",
        metric=lambda device: MeanSquaredError(),
        higher_is_better=False,
        guarantee=Guarantee.model_validate({"max_drop": 0.5}),
    )


def test_half_precision_trains_and_the_weights_stay_in_single(case, cut):
    seen = set()

    def loss(output, target):
        seen.add(output.dtype)
        return functional.mse_loss(output, target)

    ctx = replace(case.ctx, tasks=(case.ctx.tasks[0], replace(case.ctx.tasks[1], loss=loss)))
    made = {p: finetune(epochs=3, lr=0.02, precision=p).run(cut, ctx).program for p in ("no", "bf16")}
    assert validation_loss(made["bf16"], case) < 0.98 * validation_loss(cut.program, case)
    assert seen == {torch.float32}
    assert all(t.dtype == torch.float32 for t in made["bf16"].module.parameters())
    assert not torch.equal(made["bf16"].tensors()["inner.weight"], made["no"].tensors()["inner.weight"])


def test_forward_runs_in_half_precision_and_only_in_training(case, cut):
    trainer = Trainer(FinetuneOptions(precision="bf16"), cut.program.copy(), case.ctx)
    dtypes = []
    trainer.result.inner.register_forward_hook(lambda module, args, output: dtypes.append(output.dtype))
    trainer.epoch(1)
    assert set(dtypes) == {torch.bfloat16}
    with torch.no_grad():
        trainer.result(torch.randn(2, 3, 8, 8))
    assert dtypes[-1] == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": "fp16"}, "finetune.precision: fp16 needs an accelerator\n  hint: a CPU has bf16"),
        ({"device": "cuda"}, "finetune.device: cuda is not there, but cpu is"),
    ],
)
def test_what_is_not_there_is_refused(case, options, told):
    with pytest.raises(PassError) as caught:
        finetune(**options).run(case.state, case.ctx)
    assert str(caught.value) == f"error[P410]: {told}"


def test_clipping_bounds_the_norm_of_all_gradients(case, cut):
    plain = {"epochs": 1, "optimizer": "sgd", "lr": 0.1}
    moved = {}
    for clip in (None, 1e-3):
        trainer = Trainer(FinetuneOptions(**plain, clip=clip), cut.program.copy(), case.ctx)
        before = [p.detach().clone() for p in trainer.result.parameters()]
        trainer.epoch(1)
        changes = [a.detach() - b for a, b in zip(trainer.result.parameters(), before, strict=True)]
        moved[clip] = float(torch.stack([c.square().sum() for c in changes]).sum().sqrt())
    steps = 3  # of 48 images in batches of 16; with momentum a step moves at most lr * clip / (1 - 0.9)
    assert 0 < moved[1e-3] <= steps * 0.1 * 1e-3 / (1 - 0.9)
    assert moved[None] > 10 * moved[1e-3]


def test_the_moving_average_follows_its_equation():
    source = trace(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), [TensorSpec((1, 2))]).module
    ema = Ema(source, 0.3)
    expected = {name: t.clone() for name, t in source.state_dict().items()}
    for step in (1, 2, 3, 4):
        decay = min(0.3, (1 + step) / (10 + step))
        with torch.no_grad():
            for tensor in source.state_dict().values():
                tensor.add_(step)
        ema.update(source)
        for name, now in source.state_dict().items():
            whole = not now.is_floating_point()
            expected[name] = now.clone() if whole else decay * expected[name] + (1 - decay) * now
    assert decay == 0.3  # the bound is reached
    for name, tensor in ema.module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])
    assert not ema.module.training


def test_the_moving_average_is_what_is_judged_and_kept(case, cut):
    options = FinetuneOptions(epochs=2, lr=0.02, ema=0.9)
    trainer = Trainer(options, cut.program.copy(), case.ctx)
    for epoch in (1, 2):
        trainer.epoch(epoch)
    after = Finetune(options).run(cut, case.ctx).program
    assert validation_loss(after, case) < validation_loss(cut.program, case)
    averages = trainer.result.state_dict()
    assert all(torch.equal(t, averages[name]) for name, t in after.module.state_dict().items())


def test_weights_grow_as_margins_shrink():
    tasks = [Task("a", weight=2.0), Task("b", weight=1.0), Task("c", weight=1.0)]

    def weights(**margins):
        return {task.name: task.weight for task in balanced(tasks, margins)}

    assert weights() == {"a": 2.0, "b": 1.0, "c": 1.0}
    assert weights(a=1.0, b=0.0) == pytest.approx({"a": 4 / 3, "b": 4 / 3, "c": 4 / 3})
    assert weights(a=1.0, b=-1.0) == pytest.approx({"a": 1.0, "b": 2.0, "c": 1.0})
    assert weights(b=-99.0) == weights(b=-3.0) == weights(b=float("nan")) == weights(b=float("-inf"))
    assert weights(b=5.0) == weights(b=1.0)
    assert sum(weights(a=0.3, b=-2.0).values()) == pytest.approx(4.0)


def test_balance_follows_the_margins_on_validation(case, cut, tmp_path):
    tasks = (case.ctx.tasks[0], margin_task(2.0))
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, tasks=tasks, original=case.state.program, journal=journal)
        finetune(epochs=2, lr=0.02, balance="margin").run(cut, ctx)
    first, second, _ = read_journal(tmp_path / "journal.jsonl")
    split = case.ctx.data["validation"]
    dense, now = (measure(p, tasks[1:], split) for p in (case.state.program, cut.program))
    expected = balanced(tasks, {"map": worst_margin(tasks[1:], dense, now)})
    assert first["weights"] == pytest.approx({task.name: task.weight for task in expected})
    after_first = balanced(tasks, {"map": first["score"]})
    assert second["weights"] == pytest.approx({task.name: task.weight for task in after_first})
    assert first["weights"] != second["weights"]


def test_balance_without_a_guarantee_is_refused(case):
    with pytest.raises(PassError) as caught:
        finetune(balance="margin").run(case.state, case.ctx)
    assert str(caught.value) == (
        "error[P409]: finetune.balance: margin needs a guarantee to have a margin to\n"
        "  hint: give a task a guarantee, or leave out balance"
    )


class Dropped(nn.Module):
    """Draws random numbers in training."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.5)
        self.label, self.map = nn.Linear(4, 4), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        x = self.drop(torch.relu(self.conv(x)))
        return {"label": self.label(x.mean((2, 3))), "map": self.map(x)}


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"optimizer": "sgd"}, {"balance": "margin", "precision": "bf16"}])
def test_a_run_goes_on_after_a_kill_as_if_nothing_had_been(case, options, tmp_path):
    torch.manual_seed(0)
    state = replace(case.state, program=trace(Dropped(), [TensorSpec((1, 3, 8, 8))]))
    tasks = (case.ctx.tasks[0], margin_task())
    ctx = replace(case.ctx, tasks=tasks, original=state.program)
    step = finetune(epochs=4, lr=0.02, **options)
    with Journal(tmp_path / "whole.jsonl") as journal:
        whole = step.run(state, replace(ctx, journal=journal)).program

    checkpoint = tmp_path / "running.pt"
    killed = Course(step.options, copy.deepcopy(state.program), ctx)
    for _ in range(2):
        killed.epoch()
    Checkpoint(checkpoint).save(killed.state())
    with Journal(tmp_path / "journal.jsonl") as journal:
        going = replace(ctx, journal=journal, checkpoint=Checkpoint(checkpoint, there=True))
        after = step.run(state, going).program
    assert all(torch.equal(t, tensors(whole)[name]) for name, t in tensors(after).items())
    records = [read_journal(tmp_path / name) for name in ("whole.jsonl", "journal.jsonl")]
    for record in (*records[0], *records[1]):
        record.pop("seconds", None)
    assert records[0] == records[1]


@pytest.mark.parametrize("distill", [0.0, 1.0])
def test_samples_without_a_label_train_the_other_tasks(case, distill):
    """One sample in three has a map; the first sixteen have no label at all."""
    torch.manual_seed(0)
    net = Dropped()
    net.drop = nn.Identity()
    program = trace(net, [TensorSpec((1, 3, 8, 8))])
    source = [
        (x, {"label": None if i < 16 else y["label"], "map": y["map"] if i >= 16 and i % 3 == 0 else None})
        for i, (x, y) in enumerate(case.ctx.data["train"].source)
    ]
    split = replace(case.ctx.data["train"], source=source)
    data = replace(case.ctx.data, given={**case.ctx.data.given, "train": split})
    ctx = replace(case.ctx, data=data, original=program)
    trainer = Trainer(FinetuneOptions(optimizer="sgd", lr=1e-12, distill=distill), program.copy(), ctx)
    losses = trainer.epoch(1)
    with torch.no_grad():
        outputs = net(torch.stack([x for x, _ in source]))
    maps = [i for i, (_, y) in enumerate(source) if y["map"] is not None]
    wanted = torch.stack([source[i][1]["map"] for i in maps])
    assert losses["map"] == pytest.approx(float(functional.mse_loss(outputs["map"][maps], wanted)), rel=1e-4)
    labels = torch.tensor([int(y["label"]) for _, y in source[16:]])
    assert losses["label"] == pytest.approx(float(functional.cross_entropy(outputs["label"][16:], labels)), rel=1e-4)


def test_a_batch_without_any_label_changes_nothing(case):
    torch.manual_seed(0)
    program = trace(Dropped(), [TensorSpec((1, 3, 8, 8))])
    source = [(x, {"label": None, "map": None}) for x, _ in case.ctx.data["train"].source]
    split = replace(case.ctx.data["train"], source=source)
    data = replace(case.ctx.data, given={**case.ctx.data.given, "train": split})
    trainer = Trainer(FinetuneOptions(lr=0.1), program.copy(), replace(case.ctx, data=data))
    assert trainer.epoch(1) == {}
    assert all(torch.equal(t, tensors(program)[n]) for n, t in trainer.result.named_parameters())
