"""Metrics of resamples, against the metric of the samples themselves; bounds, against quantiles by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics import MeanAbsoluteError, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassJaccardIndex
from torchmetrics.image import PeakSignalNoiseRatio

from passes import bootstrap, resampling
from passes.bootstrap import Drawn, drawn_pairs
from passes.labels import collate
from passes.measure import verdict, verdicts
from passes.metrics import Whole
from passes.resampling import Meter, Resampled
from passes.tasks import Task
from specs.diagnostics import DataError
from specs.plan import Interval
from specs.spec import Guarantee

SIZES = (16, 16, 24)


class Streamed:
    """A user's own metric, which says nothing of its state."""

    def __init__(self):
        self.off, self.seen = 0.0, 0

    def update(self, output, target):
        self.off, self.seen = self.off + float((output - target).abs().sum()), self.seen + target.numel()

    def compute(self):
        return self.off / self.seen


def scores(seed=0):
    """Logits and labels, of which most agree."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (sum(SIZES),), generator=generator)
    return torch.randn(sum(SIZES), 3, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 3), labels


def images(seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(sum(SIZES), 1, 4, 4, generator=generator)
    return target + 0.1 * torch.randn(target.shape, generator=generator), target


def metered(make, output, target):
    meter = Meter(make, lambda metric: float(metric.compute()), resample=True)
    for part in zip(output.split(SIZES), target.split(SIZES), strict=True):
        meter.update(*part)
    return meter.result()


CASES = {
    "micro": (lambda: MulticlassAccuracy(3, average="micro"), scores, False),
    "macro": (lambda: MulticlassAccuracy(3), scores, False),
    "iou": (lambda: MulticlassJaccardIndex(3), scores, False),
    "psnr": (lambda: PeakSignalNoiseRatio(data_range=1.0), images, False),
    "mae": (lambda: MeanAbsoluteError(), images, False),
    "auroc": (lambda: MulticlassAUROC(3), scores, True),
    "function": (lambda: Whole(lambda output, target: (output - target).abs().max()), images, True),
    "class": (Streamed, images, True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_resample_has_the_metric_of_its_samples(name):
    make, data, again = CASES[name]
    output, target = data()
    found = metered(make, output, target)
    assert (len(found.samples), found.samples.again) == (sum(SIZES), again)
    drawn = np.random.default_rng(0).integers(0, len(output), len(output))
    metric = make()
    metric.update(output[drawn], target[drawn])
    assert found.samples.value(drawn) == pytest.approx(float(metric.compute()), rel=1e-5)


def test_what_is_no_sum_of_samples_is_drawn_by_batch():
    class Batched(MeanAbsoluteError):
        """Batches count alike, however many samples they have."""

        def update(self, preds, target):
            self.sum_abs_error += (preds - target).abs().max()
            self.total += 1

    output, target = images()
    found = metered(Batched, output, target)
    assert found.samples is None
    parts = [(output.split(SIZES)[i], target.split(SIZES)[i]) for i in (2, 0, 2)]
    metric = Batched()
    for part in parts:
        metric.update(*part)
    assert found.batches.value(np.array([2, 0, 2])) == pytest.approx(float(metric.compute()), rel=1e-5)


def test_targets_without_rows_are_drawn_by_batch():
    meter = Meter(lambda: Whole(lambda output, target: len(target)), lambda m: float(m.compute()), resample=True)
    for _ in range(3):
        meter.update(torch.zeros(2, 4), ["a", "b"])
    found = meter.result()
    assert found.samples is None
    assert found.batches.value(np.array([0, 0, 1])) == 6.0


def test_a_metric_whose_state_is_no_sum_is_computed_anew():
    output, target = images()
    found = metered(PearsonCorrCoef, output.mean((1, 2, 3)), target.mean((1, 2, 3)))
    assert found.samples.again


def test_outputs_that_are_too_large_are_not_kept(monkeypatch):
    monkeypatch.setattr(resampling, "KEPT", 1000)
    found = metered(Streamed, *images())
    assert (found.samples, found.batches, found.note) == (None, None, "its outputs take more than 0 GiB")
    assert drawn_pairs(found, found, 0, patient=True) == found.note


def test_a_large_split_is_drawn_by_batch(monkeypatch):
    monkeypatch.setattr(resampling, "SINGLES", 40)
    found = metered(MeanAbsoluteError, *images())
    assert found.samples is None
    assert len(found.batches) == 3
    assert drawn_pairs(found, found, 0, patient=True) == "there are only 3 batches to draw from"


def test_the_interval_is_that_of_the_paired_differences():
    wrong, right = scores()[0].clone(), scores()[0]
    wrong[:7] = -wrong[:7]
    labels = scores()[1]
    make = CASES["micro"][0]
    drawn = drawn_pairs(metered(make, right, labels), metered(make, wrong, labels), 3, patient=False)
    hit = [(x.argmax(1) == labels).double().numpy() for x in (right, wrong)]
    generator = np.random.default_rng(3)
    drops = []
    for _ in range(1000):
        at = generator.integers(0, len(labels), len(labels))
        drops.append(hit[0][at].mean() - hit[1][at].mean())
    got = drawn.interval(0.9, higher_is_better=True)
    assert (got.confidence, got.resamples, got.of) == (0.9, 1000, "samples")
    assert (got.low, got.high) == pytest.approx((sorted(drops)[100], sorted(drops)[899]))
    room = drawn.bound(0.9, lambda dense, pruned: pruned - (dense - 0.05))
    assert room == pytest.approx(0.05 - sorted(drops)[899])


def test_what_has_no_value_counts_as_the_worst():
    drawn = Drawn(np.ones(10), np.array([1.0] * 8 + [math.nan] * 2), "samples")
    assert drawn.interval(0.9, True) == Interval(0.0, math.inf, 0.9, 10, "samples")
    assert drawn.bound(0.9, lambda dense, pruned: pruned) == -math.inf
    assert drawn.bound(0.7, lambda dense, pruned: pruned) == 1.0


def task(**guarantee):
    return Task(
        "label",
        metric_name="Accuracy",
        metric=lambda device: CASES["micro"][0](),
        guarantee=Guarantee.model_validate(guarantee),
    )


def test_with_confidence_the_bound_has_to_hold():
    labels, right = scores()[1], scores()[0]
    wrong = right.clone()
    wrong[:3] = -wrong[:3]
    dense, pruned = (metered(CASES["micro"][0], x, labels) for x in (right, wrong))
    drop = dense.value - pruned.value
    assert 0 < drop < 0.08
    row = verdict(task(max_drop=0.08), dense, 0.5, pruned, "test")
    assert (row.dense, row.pruned, row.recovered, row.met) == (dense.value, 0.5, pruned.value, True)
    assert row.margin == pytest.approx(0.08 - drop)
    assert row.interval.confidence == 0.95
    assert row.interval.low <= drop <= row.interval.high
    sure = verdict(task(max_drop=0.08, confidence=0.95), dense, 0.5, pruned, "test")
    assert (sure.met, sure.interval) == (False, row.interval)
    assert sure.margin == pytest.approx(0.08 - row.interval.high)
    assert verdict(task(max_drop=row.interval.high, confidence=0.95), dense, 0.5, pruned, "test").met


def test_a_bound_that_cannot_be_found_keeps_no_promise():
    row = verdict(task(at_least=0.5, confidence=0.95), Resampled(0.9), 0.9, Resampled(0.9), "test")
    assert (row.met, row.interval) == (False, None)
    assert row.note == "its metric cannot be put together from parts of the split"
    assert verdict(task(at_least=0.5), Resampled(0.9), 0.9, Resampled(0.9), "test").met


def test_an_interval_that_nobody_asked_for_may_not_take_long(monkeypatch):
    monkeypatch.setattr(bootstrap, "PATIENCE", 0.0)
    found = metered(Streamed, *images())
    assert "200 resamples would take" in drawn_pairs(found, found, 0, patient=False)
    assert isinstance(drawn_pairs(found, found, 0, patient=True), Drawn)


def test_one_row_per_task_also_for_those_without_a_metric(case):
    program, split = case.state.program, case.ctx.data["test"]
    metric = replace(
        case.ctx.tasks[1], metric_name="MAE", metric=lambda device: MeanAbsoluteError(), higher_is_better=False
    )
    rows = verdicts([case.ctx.tasks[0], metric], program, program, program, split, "test")
    assert [(row.task, row.metric, row.allowed, row.margin, row.met) for row in rows] == [
        ("label", "loss", None, None, True),
        ("map", "MAE", None, None, True),
    ]
    assert all(row.dense == row.pruned == row.recovered for row in rows)


def test_a_task_without_labels_on_the_split_has_no_row(case):
    program, tasks = case.state.program, case.ctx.tasks
    bare = [(image, {**target, "label": None}) for image, target in case.ctx.data["test"].source]
    split = replace(case.ctx.data["test"], source=bare, collate=collate)
    assert [row.task for row in verdicts(tasks, program, program, program, split, "test")] == ["map"]
    promised = replace(task(max_drop=0.5), output="label", target="label", name="label")
    with pytest.raises(DataError, match=r"D715.*no sample of the test split has a label for the task 'label'"):
        verdicts([promised], program, program, program, split, "test")
