"""compile on data as it comes: labels that are missing, data of each task's own, boxes of any number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pagcp_cli.driver import compile_spec
from specs.describe import describe
from specs.diagnostics import DataError
from specs.spec import load_spec
from tests.cli.projects import NET, SPEC, project

DATA = '''

def images(n, seed):
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def splits(make):
    sizes = {"train": 24, "calibration": 40, "validation": 12, "test": 12}
    return {name: make(images(n, seed)) for seed, (name, n) in enumerate(sizes.items())}


def partly():
    """The first logit has a label in every second sample, the third one in those that are not NaN."""

    def make(found):
        bright = found.mean((1, 2, 3))
        other = torch.where(bright > 0, bright, torch.nan)
        return [(x, {"a": y if i % 2 else None, "b": z}) for i, (x, y, z) in enumerate(zip(found, bright, other))]

    return splits(make)


def apart():
    def make(found):
        half = len(found) // 2
        return {"a": [(x, x.mean()) for x in found[:half]], "b": [(x, x.std()) for x in found[half:]]}

    return splits(make)


def boxes():
    """Of image i, i % 3 numbers: what the first logit ought to be."""
    return splits(lambda found: [(x, torch.full((i % 3,), float(x.mean()))) for i, x in enumerate(found)])


def together(samples):
    places = [torch.full((len(y),), i) for i, (_, y) in enumerate(samples)]
    values = torch.cat([y for _, y in samples])
    return torch.stack([x for x, _ in samples]), {"image": torch.cat(places), "value": values}


def losses(output, target):
    errors = (output[target["image"], 0] - target["value"]).square()
    return {"a": (errors.sum() / max(1, len(errors)), len(errors)), "b": output[:, 1].square().mean()}


def first(output, target):
    return torch.nn.functional.mse_loss(output[:, 0], target)


def third(output, target):
    return torch.nn.functional.mse_loss(output[:, 2], target)
'''
TASKS = """
losses: {losses}
data: {{factory: "net:{factory}", batch_size: 8, {more}}}
tasks:
  - {{name: a, {a}}}
  - {{name: b, {b}}}
budgets: {{macs: 80%}}
passes:
  - pagcp: {{{options}}}
  - finetune: {{epochs: 1}}
export: []
"""


def spec_of(
    folder: Path, factory: str, a: str, b: str, options: str = "", losses: str = "null", more: str = ""
) -> Path:
    head = SPEC[: SPEC.index("passes:")]
    tail = TASKS.format(factory=factory, a=a, b=b, options=options, losses=losses, more=more)
    return project(folder, head + tail, NET + DATA)


PARTLY = {
    "a": "target: a, loss: 'net:first', metric: 'net:first', higher_is_better: false, guarantee: {max_drop: 100}",
    "b": "target: b, missing: nan, loss: 'net:third', metric: 'net:third', higher_is_better: false",
}


@pytest.mark.parametrize(
    "options", ["", "confidence: 0.9, criterion: tp_taylor", "compensate: mean, search: certified"]
)
def test_labels_that_are_missing(tmp_path: Path, options: str) -> None:
    spec = load_spec(spec_of(tmp_path, "partly", **PARTLY, options=options))
    assert "task b: net:third is reported, nothing is guaranteed; no label where the target is nan" in describe(spec)
    result = compile_spec(spec, tmp_path / "out")
    assert result.missed == ()
    assert {v.task for v in result.verdicts} == {"a", "b"}
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert all(factor > 0 for factor in evidence["searches"][0]["factors"].values())


def test_data_of_each_tasks_own(tmp_path: Path) -> None:
    given = {task: f"loss: 'net:{way}'" for task, way in (("a", "first"), ("b", "third"))}
    result = compile_spec(load_spec(spec_of(tmp_path, "apart", **given)), tmp_path / "out")
    assert result.plan.after.macs <= 0.8 * result.plan.before.macs


@pytest.mark.parametrize("options", ["", "confidence: 0.9"])
def test_boxes_of_any_number_and_one_loss_for_all(tmp_path: Path, options: str) -> None:
    spec = spec_of(tmp_path, "boxes", "", "", options, "'net:losses'", "collate: 'net:together'")
    result = compile_spec(load_spec(spec), tmp_path / "out")
    assert set(result.searches[0].factors) == {"a", "b"}


def test_missing_labels_and_one_loss_for_all_need_a_collate_function(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "partly", "", "", losses="'net:losses'")
    with pytest.raises(DataError, match=r"error\[D716\]: net:losses sees whole targets"):
        compile_spec(load_spec(spec), tmp_path / "out")
