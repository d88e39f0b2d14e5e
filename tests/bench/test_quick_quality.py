"""What the quality benchmark rests on: mirrored faces, parts that share nothing, cells that are kept, equal costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.mtfl.mtfl import CLASSES, FaceNet, augmented, flipped
from bench.quick_quality import mtfl as faces
from bench.quick_quality.arms import ARMS, PEERS, cut
from bench.quick_quality.cases import Case, accuracy, classified, split, taken
from bench.quick_quality.cells import cell, dense
from bench.quick_quality.peer import cut_by_peer, macs
from bench.quick_quality.summary import beaten, summed, table
from bench.quick_quality.training import Recipe, trained
from passes.measure import measure
from specs.options import FinetuneOptions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pagcp-bench"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 1)
        self.norm, self.head = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def part(count: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    images = torch.randn(count, 3, 8, 8, generator=generator)
    return images + 0.7 * functional.one_hot(labels, 4)[:, :3, None, None], labels


def plain(images, target):
    return images, target


@pytest.fixture
def case() -> Case:
    torch.manual_seed(0)
    tasks, train = (classified("class"),), part(256, 0)
    model, key = trained("small", Small(), tasks, train, plain, Recipe(epochs=2, lr=0.01, batch_size=32))
    return Case(
        name="small",
        key=key,
        model=model,
        shape=(1, 3, 8, 8),
        tasks=tasks,
        train=train,
        pool=part(128, 1),
        validation=part(32, 2),
        test=part(96, 3),
        finetune=FinetuneOptions(epochs=1, lr=0.01, batch_size=32),
        outputs=("head",),
        tuned=128,
        calibration=64,
    )


def test_the_mirror_moves_eyes_mouth_and_pose() -> None:
    images = torch.zeros(1, 1, 48, 48)
    points = torch.tensor([[0.25, 0.25], [0.75, 0.375], [0.5, 0.5], [0.375, 0.75], [0.625, 0.875]])
    for place, (x, y) in enumerate((points * 48).long().tolist()):
        images[0, 0, y, x] = place + 1
    target = {name: torch.tensor([1]) for name in CLASSES}
    seen, told = flipped(images, {"landmarks": points.view(1, 10), **target})
    for place, (x, y) in enumerate((told["landmarks"].view(5, 2) * 48).tolist()):
        sides = (2, 1, 3, 5, 4)  # what was the left eye is the right one
        assert seen[0, 0, int(y), int(x) - 1] == sides[place]
    assert (int(told["pose"]), int(told["smile"])) == (3, 1)
    again, back = flipped(seen, told)
    assert torch.equal(again, images)
    assert torch.allclose(back["landmarks"].view(5, 2), points)
    assert int(back["pose"]) == 1


def test_shifted_faces_keep_their_landmarks() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        images = torch.zeros(4, 1, 48, 48)
        images[:, 0, 12, 36] = 1.0
        target = {
            "landmarks": torch.tensor([0.75, 0.25] * 5).repeat(4, 1),
            **{n: torch.ones(4).long() for n in CLASSES},
        }
        seen, told = augmented(images, target)
        for i in range(2, 4):  # the first two are in the mirror
            x, y = (told["landmarks"][i, :2] * 48).round().long().tolist()
            assert seen[i, 0, y, x] == 1.0


def test_the_faces_are_split_into_parts_that_share_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(faces, "TRAIN", 40)
    monkeypatch.setattr(faces, "VALIDATION", 10)
    monkeypatch.setattr(faces, "RECIPE", Recipe(epochs=1, lr=1e-3, batch_size=20))
    made = {}
    for name, count in (("train", 70), ("test", 20)):
        made[f"{name}_x"] = np.zeros((count, 48, 48), np.uint8)
        made[f"{name}_x"][:, 0, 0] = np.arange(count)
        made[f"{name}_landmarks"] = np.full((count, 5, 2), 0.5, np.float32)
        made[f"{name}_attrs"] = np.tile(np.array([0, 1, 1, 4], np.uint8), (count, 1))
    np.savez(tmp_path / "mtfl48_gray.npz", **made)
    case = faces.mtfl(tmp_path)
    seen = [set(each[0][:, 0, 0, 0].tolist()) for each in (case.train, case.validation, case.pool)]
    assert [len(each) for each in seen] == [40, 10, 20]
    assert len(set.union(*seen)) == 70
    assert case.test[1]["pose"].tolist() == [4] * 20
    assert 10e6 < macs(case.model, case.shape) < 15e6
    assert macs(FaceNet(), case.shape) == macs(case.model, case.shape)
    first, second = (
        {float(x[0, 0, 0]) for x, _ in replace(case, calibration=10).calibrating(s).source} for s in (0, 1)
    )
    assert len(first) == len(second) == 10
    assert first != second
    assert first | second <= seen[2]


def test_weights_are_trained_once_for_network_and_recipe(cache, capsys) -> None:
    tasks, train = (classified("class"),), part(64, 0)
    recipe = Recipe(epochs=1, lr=0.01, batch_size=32)
    model, key = trained("small", Small(), tasks, train, plain, recipe)
    assert "epoch 1/1" in capsys.readouterr().err
    again, same = trained("small", Small(), tasks, train, plain, recipe)
    assert (same, capsys.readouterr().err) == (key, "")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), again.parameters(), strict=True))
    assert not again.training
    _, other = trained("small", Small(), tasks, train, plain, replace(recipe, lr=0.02))
    assert other != key
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("name", ["marginal", "racing", "certified", "published", "uniform", "uniform_l1", *PEERS[2:]])
def test_every_arm_meets_the_budget(case: Case, name: str) -> None:
    found = cut(ARMS[name], case, 0)
    kept = macs(found.program.module, case.shape) / macs(case.model, case.shape)
    assert case.macs - 0.1 < kept <= case.macs
    assert measure(found.program, case.tasks, split("test", case.test))["class"] > 0


@pytest.mark.parametrize("name", ["marginal", "tp_l1_global", "tp_taylor_local"])
def test_what_is_protected_stays_whole_in_every_arm(case: Case, name: str) -> None:
    found = cut(ARMS[name], replace(case, protect=("stem", "outer"), macs=0.7), 0).program.module
    assert (found.get_submodule("stem").out_channels, found.get_submodule("outer").out_channels) == (16, 16)
    assert found.get_submodule("inner").out_channels < 32
    assert found.get_submodule("head").out_features == 4


def test_the_peer_scores_by_the_gradients_of_the_whole_draw(case: Case) -> None:
    batches = case.calibrating(0).cached()
    one, other = (cut_by_peer(case, "taylor", False, each) for each in (batches, case.calibrating(1).cached()))
    assert not torch.equal(one.inner.weight, other.inner.weight)  # other images, other channels
    assert one.inner.weight.grad is None
    assert case.model.inner.weight.grad is None


def test_a_cell_is_computed_once(case: Case, cache, capsys) -> None:
    arm = ARMS["uniform_l1"]
    found = cell(case, "uniform_l1", arm, 0)
    assert "small uniform_l1, seed 0" in capsys.readouterr().err
    assert found["before"].keys() == found["after"].keys() == {"class"}
    assert cell(case, "uniform_l1", arm, 0) == found
    assert capsys.readouterr().err == ""
    for other, seed in ((replace(arm, version=arm.version + 1), 0), (arm, 1)):
        cell(case, "uniform_l1", other, seed)
        assert "small uniform_l1, seed" in capsys.readouterr().err
    cell(replace(case, tuned=64), "uniform_l1", arm, 0)
    assert "small uniform_l1, seed 0" in capsys.readouterr().err
    written = [json.loads(path.read_text()) for path in (cache / "cells").glob("small-uniform_l1-0-*.json")]
    assert len(written) == 3
    assert written.count(found) == 1


def test_cells_are_the_same_when_computed_again(case: Case, cache) -> None:
    first = cell(case, "tp_taylor_local", ARMS["tp_taylor_local"], 0)
    for path in (cache / "cells").glob("*tp_taylor_local*"):
        path.unlink()
    again = cell(case, "tp_taylor_local", ARMS["tp_taylor_local"], 0)
    assert all(again[name] == first[name] for name in ("before", "after", "kept", "widths"))


def test_drops_are_relative_and_point_down() -> None:
    tasks = (classified("class"), replace(faces.TASKS[0], name="far"))
    case = Case("", "", nn.Identity(), (1,), tasks, *(part(4, 0),) * 4, FinetuneOptions(), ())
    drops = case.drops({"class": 0.6, "far": 0.05}, {"class": 0.8, "far": 0.04})
    assert drops == pytest.approx({"class": 0.25, "far": 0.25})
    whole = {"metrics": {"class": 0.8, "far": 0.04}, "macs": 2e6}
    costs = {"kept": 0.5, "search_seconds": 2.0, "evaluations": 4}
    cells = [
        {"before": {"class": 0.4, "far": 0.04}, "after": {"class": 0.8, "far": far}, **costs} for far in (0.042, 0.046)
    ]
    row = summed(case, whole, cells)
    assert (row["before"]["worst"], row["before"]["mean"], row["before"]["spread"]) == ([0.5, 0.5], 0.5, 0.0)
    assert row["after"]["worst"] == pytest.approx([0.05, 0.15])
    assert row["after"]["spread"] == pytest.approx(0.0707)
    assert row["after"]["drops"] == pytest.approx({"class": 0.0, "far": 0.1})
    text = table("two", {"dense": whole, "arms": {"marginal": row}, "beaten": {}})
    assert "50.0 ± 0.0 %" in text
    assert "class 0.0%, far 10.0%" in text


def test_an_arm_is_beaten_beyond_the_spread() -> None:
    def row(mean: float, spread: float):
        return {stage: {"mean": mean, "spread": spread} for stage in ("before", "after")}

    arms = {"marginal": row(0.1, 0.02), "uniform_l1": row(0.13, 0.01), "published": row(0.13, 0.04)}
    found = beaten({**arms, "tp_l1_local": row(0.05, 0.0), "by_l1": row(0.2, 0.0)})
    yes, no = (dict.fromkeys(("before", "after"), wins) for wins in (True, False))
    assert found == {"uniform_l1": yes, "published": no, "tp_l1_local": no}
    assert beaten({"uniform_l1": row(0.1, 0.0)}) == {}


def test_accuracy_and_parts() -> None:
    assert accuracy(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1])) == 0.5
    images, target = taken((torch.arange(4), {"a": torch.arange(4) * 2}), torch.tensor([3, 0]))
    assert (images.tolist(), target["a"].tolist()) == ([3, 0], [6, 0])


def test_without_data_it_says_so(tmp_path) -> None:
    command = [sys.executable, "-m", "bench.quick_quality", "--case", "mtfl", "--seeds", "0"]
    environment = {**os.environ, "PAGCP_DATA": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"no {tmp_path}/mtfl48_gray.npz: PAGCP_DATA must name the folder of the data\n"


def test_dense_is_measured_on_test(case: Case) -> None:
    found = dense(case)
    assert found["macs"] == macs(case.model, case.shape)
    with torch.inference_mode():
        assert found["metrics"]["class"] == accuracy(case.model(case.test[0]), case.test[1])
