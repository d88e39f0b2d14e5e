"""The worked examples: what a user copies, on made-up data; what their page shows is what was stored."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import worked
from bench.mtfl import mtfl
from bench.mtfl.train import EXAMPLE as MTFL
from bench.pages import shown
from bench.pets import pets
from bench.pets.train import EXAMPLE as PETS
from bench.quick_quality.training import Recipe
from bench.worked import PAGE, RESULTS, Worked, table

EXAMPLES = {"mtfl": MTFL, "pets": PETS}
MODULES = {"mtfl": mtfl, "pets": pets}


def write_faces(folder: Path) -> None:
    rng, made = np.random.default_rng(0), {}
    for name, count in (("train", 110), ("test", 40)):
        made[f"{name}_x"] = rng.integers(0, 256, (count, 48, 48), np.uint8)
        made[f"{name}_landmarks"] = rng.random((count, 5, 2), np.float32)
        made[f"{name}_attrs"] = rng.integers(0, 2, (count, 4), np.uint8)
    np.savez(folder / "mtfl48_gray.npz", **made)


def write_pets(folder: Path) -> None:
    rng, made = np.random.default_rng(0), {}
    for name, count in (("train", 60), ("val", 24), ("test", 24)):
        made[f"{name}_x"] = rng.integers(0, 256, (count, 96, 96, 3), np.uint8)
        made[f"{name}_trimap"] = rng.integers(0, 3, (count, 96, 96), np.uint8)
        made[f"{name}_breed"] = rng.integers(0, 3, count, np.uint8)
        corners = np.sort(rng.random((count, 2, 2), np.float32), 1)
        made[f"{name}_box"] = np.where(np.arange(count)[:, None] % 2, corners.reshape(count, 4), np.float32("nan"))
    np.savez(folder / "pets600_96.npz", **made)


@pytest.fixture(params=EXAMPLES)
def name(request) -> str:
    return request.param


@pytest.fixture
def folder(name, tmp_path, monkeypatch) -> Iterator[Path]:
    """That of data like the example's, of which the example's splits are."""
    monkeypatch.setenv("PAGCP_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    {"mtfl": write_faces, "pets": write_pets}[name](tmp_path)
    splits = {"mtfl": {"train": 64, "validation": 24, "calibration": 22}, "pets": {"train": 40, "calibration": 20}}
    monkeypatch.setattr(MODULES[name], "SPLITS", splits[name])
    sys.modules.pop(name, None)  # as specs import it: from the folder that they lie in
    yield tmp_path
    sys.modules.pop(name, None)


def copied(name: str, folder: Path) -> Worked:
    """What a user has: spec and module in a folder of their own, and a network that is hardly trained."""
    example, place = EXAMPLES[name], folder / "copied"
    place.mkdir()
    text = (example.folder / f"{name}.py").read_text()
    splits = f"SPLITS = {MODULES[name].SPLITS}\n"
    (place / f"{name}.py").write_text("\n".join(splits if s.startswith("SPLITS = ") else s for s in text.splitlines()))
    (place / f"{name}.yaml").write_text((example.folder / f"{name}.yaml").read_text())
    return replace(example, folder=place, recipe=Recipe(epochs=1, lr=1e-3, batch_size=20))


def test_a_copy_compiles(name, folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(worked, "RESULTS", folder)
    passes = "passes=[{uniform: {ratio: 0.5}}, {finetune: {epochs: 1}}]"
    given = ["--set", passes, "--set", "export=[python]", "--set", "budgets={}", "-o", str(folder / "out"), "--json"]
    monkeypatch.setattr(sys, "argv", ["bench", *given])
    code = copied(name, folder).main()
    found = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in found["verdicts"]] == list(MODULES[name].datasets()["test"].target)
    assert {row["split"] for row in found["verdicts"]} == {"test"}
    assert found["costs"]["after"]["macs"] < 0.5 * found["costs"]["before"]["macs"]
    assert code == (4 if found["missed"] else 0)
    assert (folder / "out" / "model.py").is_file()
    assert not (folder / f"{name}.json").exists()  # what is overridden is not stored


def test_without_the_data_it_is_said(name, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PAGCP_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert (EXAMPLES[name].main(), EXAMPLES[name].train()) == (2, 2)
    assert "PAGCP_DATA" in capsys.readouterr().err


def test_what_a_user_brings_imports_nothing_of_ours(name) -> None:
    tree = ast.parse(Path(MODULES[name].__file__).read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {each.split(".")[0] for each in found} <= {"__future__", "itertools", "os", "pathlib", "numpy", "torch"}


def test_splits_share_nothing_and_only_train_moves(name, folder) -> None:
    splits = MODULES[name].datasets()
    assert set(splits) == {"train", "calibration", "validation", "test"}
    assert sum(len(each) for each in splits.values()) == {"mtfl": 150, "pets": 108}[name]
    seen = [{image.numpy().tobytes() for image in each.images} for each in splits.values()]
    assert len(set.union(*seen)) == sum(len(each) for each in splits.values())
    for split, each in splits.items():
        assert torch.equal(each[0][0], each[0][0]) == (split != "train")


def test_stored_results_are_what_the_page_shows(name) -> None:
    found = json.loads((RESULTS / f"{name}.json").read_text())
    page = PAGE.read_text()
    assert shown(page, name, table(found)) == page
    assert found["verdicts"][0]["task"] in table(found)
    assert shown(page, name, "other") != page
    after, limits = found["costs"]["after"], found["limits"]
    assert all(after[key] <= limit for key, limit in limits.items())


def test_a_face_that_is_read_in_the_mirror_has_its_landmarks_there(monkeypatch) -> None:
    images = torch.zeros(1, 1, 48, 48)
    images[0, 0, 12, 36] = 1.0
    target = {"landmarks": torch.tensor([[36.5 / 48, 12.5 / 48] * 5]), **dict.fromkeys(mtfl.CLASSES, torch.tensor([0]))}
    faces = mtfl.Faces((images, target), moving=True)
    places = set()
    for seed in range(12):
        torch.manual_seed(seed)
        image, told = faces[0]
        x, y = (48 * told["landmarks"].view(5, 2)[0]).long().tolist()
        assert image[0, y, x] == 1.0
        places.add((x > 24, told["pose"].item()))
    assert places == {(True, 0), (False, 4)}


@pytest.mark.parametrize("scale", [(1.0, 1.0), (-1.0, 1.0), (0.5, 1.0)])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.25, -0.125)])
def test_boxes_go_where_the_pixels_go(scale, shift) -> None:
    trimap = torch.ones(2, 96, 96).long()
    trimap[:, 36:60, 48:72] = 0
    box = torch.tensor([[48, 36, 72, 60], [np.nan] * 4]) / 96
    images = trimap[:, None].expand(2, 3, 96, 96).float()
    given = (torch.tensor([each] * 2) for each in (scale, shift))
    seen, told = pets.placed(images, {"trimap": trimap, "box": box, "breed": torch.zeros(2)}, *given)
    rows, columns = (told["trimap"][0] == 0).nonzero().unbind(1)
    found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert torch.equal(found, (96 * told["box"][0]).round().long())
    assert told["box"][1].isnan().all()
    assert (seen[:, 0].round() == told["trimap"]).float().mean() > 0.98


def test_overlap_by_hand() -> None:
    box = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    assert pets.overlap(box, box) == 1.0
    assert pets.overlap(box, box + 0.25) == pytest.approx(1 / 7)
    assert pets.overlap(box, box + 0.5) == 0.0
