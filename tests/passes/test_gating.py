"""Recovery on real multitask data: no task's calibration loss is above what it was before. Needs PAGCP_DATA."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.base import Context, State, run_passes
from passes.data import Split, Splits
from passes.gate import Changed
from passes.journal import Journal, read_journal
from passes.oracle import RealOracle
from passes.recalibrate import normalisations, recalibrated
from passes.refit import Refit
from passes.tasks import Task, task_losses, weighted
from passes.uniform import Uniform
from specs.options import RefitOptions, UniformOptions
from specs.spec import Budgets
from tests.passes.conftest import make_state


def block(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Faces(nn.Module):
    """[N, 1, 48, 48] -> five landmarks as 10 fractions, and the logits of four attributes."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(block(1, 12, 2), block(12, 24, 2), block(24, 24), block(24, 32, 2))
        self.hidden = nn.Linear(32 * 9, 48)
        sizes = {"landmarks": 10, "gender": 2, "smile": 2, "glasses": 2, "pose": 5}
        self.heads = nn.ModuleDict({name: nn.Linear(48, size) for name, size in sizes.items()})

    def forward(self, x):
        x = torch.relu(self.hidden(functional.avg_pool2d(self.body(x), 2).flatten(1)))
        return {name: head(x) for name, head in self.heads.items()}


class Pets(nn.Module):
    """[N, 3, 48, 48] -> trimap logits [N, 3, 48, 48], breed [N, 3] and the head's box [N, 4]."""

    def __init__(self):
        super().__init__()
        self.stem, self.down, self.deep = block(3, 12, 2), block(12, 24, 2), block(24, 32, 2)
        self.up, self.fuse = nn.ConvTranspose2d(32, 16, 2, 2), block(40, 16)
        self.trimap = nn.ConvTranspose2d(16, 3, 4, 4)
        self.breed, self.box = nn.Linear(32, 3), nn.Linear(32, 4)

    def forward(self, x):
        half = self.down(self.stem(x))
        deep = self.deep(half)
        trimap = self.trimap(self.fuse(torch.cat([self.up(deep), half], 1)))
        pooled = deep.mean((2, 3))
        return {"trimap": trimap, "breed": self.breed(pooled), "box": self.box(pooled)}


def faces(folder):
    with np.load(folder / "mtfl48_gray.npz") as found:
        order = np.random.default_rng(0).permutation(len(found["train_x"]))[:1500]
        images = torch.from_numpy(found["train_x"][order]).float().unsqueeze(1) / 64 - 2
        attributes = torch.from_numpy(found["train_attrs"][order]).long()
        landmarks = torch.from_numpy(found["train_landmarks"][order]).flatten(1)
    names = ("gender", "smile", "glasses", "pose")
    targets = [{"landmarks": p, **dict(zip(names, a, strict=True))} for p, a in zip(landmarks, attributes, strict=True)]
    tasks = [Task("landmarks", "landmarks", "landmarks", functional.mse_loss, weight=30.0)]
    tasks += [Task(name, name, name, functional.cross_entropy) for name in names]
    return Faces(), list(zip(images, targets, strict=True)), tuple(tasks)


def pets(folder):
    with np.load(folder / "pets600_96.npz") as found:
        parts = {
            key: np.concatenate([found[f"train_{key}"], found[f"val_{key}"]]) for key in ("x", "trimap", "breed", "box")
        }
    images = torch.from_numpy(parts["x"][:, ::2, ::2]).permute(0, 3, 1, 2).float() / 64 - 2
    boxes = [None if np.isnan(box).any() else torch.from_numpy(box) for box in parts["box"]]
    targets = [
        {"trimap": torch.from_numpy(trimap[::2, ::2]).long(), "breed": torch.tensor(int(breed)), "box": box}
        for trimap, breed, box in zip(parts["trimap"], parts["breed"], boxes, strict=True)
    ]
    tasks = (
        Task("trimap", "trimap", "trimap", functional.cross_entropy),
        Task("breed", "breed", "breed", functional.cross_entropy),
        Task("box", "box", "box", functional.mse_loss, weight=10.0),
    )
    return Pets(), list(zip(images, targets, strict=True)), tasks


@dataclass(frozen=True)
class Cut:
    """A trained network, cut to half, and what it was trained for."""

    state: State
    ctx: Context


def learned(net, samples, tasks, held, epochs):
    """Trained for some seconds on all but the `held` last samples, which are the calibration set; then cut."""
    torch.manual_seed(0)
    train = Split("train", samples[:-held], 64)
    calibration = Split("calibration", samples[-held:], 100)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    for epoch in range(epochs):
        for batch in train.shuffled(epoch):
            optimizer.zero_grad()
            weighted(tasks, task_losses(tasks, net(*batch.inputs), batch.target)).backward()
            optimizer.step()
    state = make_state(trace(net, [TensorSpec((1, *samples[0][0].shape))]))
    ctx = Context(
        Budgets(),
        oracle=RealOracle(tasks, calibration.cached()),
        data=Splits({"train": train, "calibration": calibration}),
        tasks=tasks,
        original=state.program,
    )
    return Cut(run_passes([Uniform(UniformOptions(ratio=0.5))], state, ctx), ctx)


@pytest.fixture(scope="module", params=["mtfl", "pets"])
def case(request, data_folder):
    return learned(*faces(data_folder), 300, 3) if request.param == "mtfl" else learned(*pets(data_folder), 150, 6)


def losses(case, program):
    """By an oracle of their own."""
    channels = case.state.here
    oracle = RealOracle(case.ctx.tasks, case.ctx.data["calibration"].cached())
    return oracle.losses(replace(program), channels, case.state.keep)


@pytest.mark.parametrize("mode", ["bias", "lstsq"])
def test_no_task_is_worse_after_recovery_than_before(case, tmp_path, mode):
    with Journal(tmp_path / "journal.jsonl") as journal:
        ctx = replace(case.ctx, journal=journal)
        after = run_passes([Refit(RefitOptions(mode=mode))], case.state, ctx)
    before, now = losses(case, case.state.program), losses(case, after.program)
    assert all(now[task] <= before[task] for task in before)
    told = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "refit"]
    assert {r["kept"] for r in told} == {True, False}
    assert weighted(ctx.tasks, now) < weighted(ctx.tasks, before)


def test_without_the_gate_some_task_would_be_worse(case):
    """Each recalibration by itself: some help one task and harm another, which is what the gate is there for."""
    program, batches = case.state.program, case.ctx.data["calibration"].cached()
    before, harmed = losses(case, program), set()
    for name, calls in normalisations(program).items():
        made = Changed(recalibrated(program, name, calls, batches))(program, case.state.keep)
        now = losses(case, made)
        if any(now[task] < before[task] for task in before):
            harmed |= {task for task in before if now[task] > before[task]}
    assert harmed
