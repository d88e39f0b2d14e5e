"""The reference arm decides as the published search does, by torch-pruning and by our own analysis; the arms run."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.oracle_speed.__main__ import _compared
from bench.oracle_speed.arms import Setting
from bench.oracle_speed.cases import Case
from bench.oracle_speed.reference import reference
from pagcp_ir.analyse import analyse
from pagcp_ir.planning import make_plan
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.base import Context, State
from passes.data import Batch
from passes.oracle import RealOracle
from passes.pagcp import Pagcp
from passes.tasks import Task
from specs.spec import Budgets


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def small_case(peer: bool) -> Case:
    """A network that was trained for a few steps, so that its losses rise when it is cut."""
    torch.manual_seed(0)
    model = Residual()
    images, labels = torch.randn(96, 3, 8, 8), torch.arange(96) % 4
    images += 0.5 * functional.one_hot(labels, 4)[:, :3, None, None]
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(8):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    batches = tuple(Batch((images[i : i + 32],), labels[i : i + 32], 32) for i in range(0, 96, 32))
    tasks = (Task("class", loss=functional.cross_entropy),)
    return Case("small", model.eval(), (1, 3, 8, 8), tasks, batches, peer)


@pytest.mark.parametrize(("tolerance", "total"), [(0.02, 1.2), (0.1, 1.15), (0.2, 3.0)])
@pytest.mark.parametrize("peer", [True, False])
def test_the_reference_decides_as_the_published_search(peer: bool, tolerance: float, total: float) -> None:
    case = small_case(peer)
    options = Setting("small", 96, 32, tolerance, total, 9, 0, 1).options(search="published")
    found = reference(case, options)
    program = trace(case.model, [TensorSpec(case.shape)])
    channels = analyse(program)
    state = State(program, channels, make_plan(program, channels, channels.all))
    oracle = RealOracle(case.tasks, case.batches)
    after = Pagcp(options).run(state, Context(Budgets(), oracle=oracle, tasks=case.tasks))
    removed = {cut.group: cut.removed for cut in after.plan.cuts}
    assert len(removed) > 1
    assert {group: len(cut) for group, cut in found.removed.items()} == {g: len(cut) for g, cut in removed.items()}
    assert found.last["class"] == pytest.approx(after.searches[0].factors["class"] * found.first["class"], rel=1e-6)
    assert found.macs == after.plan.after.macs
    assert found.evaluations == after.searches[0].evaluations


def row(**more: object) -> dict[str, object]:
    costs = {
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "evaluations": 1,
        "images": 1,
        "peak_mb": 1,
        "macs": 50,
        "cut": 2,
        "held": 2,
    }
    return {**costs, "dense_macs": 100, "widths": {"a": 20, "b": 10}, "removed": {}, "factors": {"t": 1.5}, **more}


def test_what_is_compared() -> None:
    rows = {
        "reference": row(cpu_seconds=8.0, removed={"a": [1, 2]}),
        "published": row(cpu_seconds=4.0, removed={"a": [1, 2]}),
        "certified": row(cpu_seconds=2.0, removed={"a": [1, 2], "b": [3]}),
        "racing": row(removed={"a": [1], "b": [3, 4, 5]}),
        "marginal": row(cpu_seconds=3.0),
        "marginal_racing": row(),
    }
    found = _compared(rows, 0.05)
    assert (found["published"]["speedup"], found["published"]["identical_plan"]) == (2.0, True)
    assert (found["certified"]["speedup"], found["certified"]["same_ratio"], found["certified"]["groups"]) == (
        4.0,
        1,
        2,
    )
    assert (found["racing"]["same_ratio"], found["racing"]["within_a_step"]) == (0, 1)
    assert found["marginal"]["seconds_over_published"] == 0.75
    assert _compared({**rows, "reference": row()}, 0.05)["published"]["identical_plan"] is False


def test_it_prints_figures_for_every_arm(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench.oracle_speed",
        "--case",
        "digits",
        "--images",
        "100",
        "--out",
        str(tmp_path),
    ]
    command.append("--json")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["published"]["identical_plan"] is True
    for arm in ("reference", "published", "certified", "racing", "marginal", "marginal_racing"):
        assert {"seconds", "evaluations", "images", "peak_mb", "macs_kept", "worst_factor"} <= found[arm].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["oracle_speed_digits_100.json"]


def test_it_prints_how_costs_grow(tmp_path) -> None:
    command = [sys.executable, "-m", "bench.oracle_speed", "--case", "digits", "--growth", "--out", str(tmp_path)]
    command += ["--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    head, *rows = (line.split() for line in done.stdout.splitlines())
    assert head[:5] == ["case", "calibration", "arm", "groups", "images_each"]
    assert [row[:4] for row in rows] == [
        ["digits", images, arm, "8"] for images in ("100", "200") for arm in ("certified", "racing")
    ]
    assert int(rows[3][4]) < 200  # a race
    assert [path.name for path in tmp_path.iterdir()] == ["oracle_growth_digits.json"]
