"""Tasks of a spec: selection, losses, metrics, and what is said when they do not fit."""

import re
import sys
from collections import namedtuple

import pytest
import torch
from torch.nn import functional

from passes.metrics import torchmetrics_metric
from passes.tasks import Task, batch_losses, build_tasks, select, task_losses, weighted
from specs.diagnostics import DataError
from specs.spec import load_spec

HEAD = """
version: 1
model: {factory: "m:f", inputs: [[1, 2]]}
data: {factory: "m:d"}
passes: [finetune]
"""
LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
LABELS = torch.tensor([0, 1, 1])
CPU = torch.device("cpu")

USER = """
import torch
def joint(output, target): return {"t": output.sum(), "u": output.mean()}
def mae(output, target, scale=1.0): return (output - target).abs().mean() * scale
def count(output, target): return len(output)
class Hits:
    higher_is_better = True
    def __init__(self, bonus=0): self.n = bonus
    def update(self, output, target): self.n += int((output.argmax(1) == target).sum())
    def compute(self): return self.n
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "user_tasks.py").write_text(USER)
    yield lambda text: build_tasks(load_spec(_written(tmp_path / "s.yaml", HEAD + text)))
    sys.modules.pop("user_tasks", None)


def _written(path, text):
    path.write_text(text)
    return path


def failure(act):
    with pytest.raises(DataError) as caught:
        act()
    return str(caught.value)


def test_select():
    Pair = namedtuple("Pair", "left right")
    tree = {"a": [1, {"b.c": 5, "d": 2}], "b.c": 3, 7: Pair(8, 9)}
    assert select(tree, None) is tree
    assert select(tree, "b.c") == 3
    assert select(tree, "a.1.d") == 2
    assert select([10, 20], 1) == select([10, 20], -1) == 20
    assert select(tree, "7.right") == select(tree, 7)[1] == 9
    assert failure(lambda: select(tree, "a.1.e")) == (
        "error[D711]: output 'a.1.e': there is no key 'e'\n  hint: known: b.c, d"
    )
    assert failure(lambda: select([1], "x", "target")) == "error[D711]: target 'x': 'x' is not an index into 1 values"
    assert failure(lambda: select(torch.ones(2), "x")) == "error[D711]: output 'x': 'x' is looked up in a Tensor"


def test_a_loss_of_torch_with_arguments(build):
    (task,) = build("tasks: [{name: t, loss: {name: cross_entropy, weight: [1, 3], label_smoothing: 0.1}}]")
    expected = functional.cross_entropy(LOGITS, LABELS, weight=torch.tensor([1.0, 3.0]), label_smoothing=0.1)
    assert torch.equal(task_losses([task], LOGITS, LABELS)["t"], expected)
    assert (task.distill, task.weight, task.metric) == ("kl", 1.0, None)


def test_losses_of_the_user_and_their_weighted_sum(build):
    tasks = build(
        "losses: user_tasks:joint\n"
        "tasks: [{name: t}, {name: u, weight: 4}, {name: v, loss: {name: 'user_tasks:mae', scale: 2.0}}]"
    )
    output, target = torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.0])
    losses = task_losses(tasks, output, target)
    assert {k: float(v) for k, v in losses.items()} == {"t": 4.0, "u": 2.0, "v": 4.0}
    assert float(weighted(tasks, losses)) == 4 + 4 * 2 + 4


def test_a_joint_loss_is_computed_once():
    calls = []

    def joint(output, target):
        calls.append(1)
        return {"t": output.sum(), "u": output.sum()}

    task_losses([Task("t", joint=joint), Task("u", joint=joint)], LOGITS, LABELS)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "tasks: [{name: t, loss: {name: mse_loss, wieght: 2}}]",
            "mse_loss takes no 'wieght'\n  hint: did you mean weight",
        ),
        ("tasks: [{name: t, loss: 'user_tasks:mea'}]", "user_tasks has no 'mea'\n  hint: did you mean mae?"),
        (
            "tasks: [{name: t, loss: mse_loss, metric: {name: MulticlassAccuracy, classes: 3}}]",
            "error[D722]: torchmetrics refuses MulticlassAccuracy(classes=3)",
        ),
        (
            "tasks: [{name: t, loss: mse_loss, metric: 'user_tasks:mae'}]",
            "error[D723]: metric user_tasks:mae does not say whether higher is better\n"
            "  hint: add higher_is_better: true or false to the task",
        ),
    ],
)
def test_what_does_not_resolve(build, text, told):
    assert told in failure(lambda: build(text))


def test_a_metric_that_torchmetrics_does_not_have_here():
    """One of another version, or one that asks for a package that is not installed, passes `validate`."""
    told = failure(lambda: torchmetrics_metric("MulticlassAccuracie", {}))
    assert told.startswith("error[D721]: torchmetrics has no metric 'MulticlassAccuracie'\n  hint: did you mean Multi")


def test_losses_that_raise_or_are_not_one_number():
    raising = Task("t", loss=functional.cross_entropy)
    assert failure(lambda: task_losses([raising], LOGITS, LABELS.float())).startswith(
        "error[D712]: the loss of 't' raised RuntimeError: "
    )
    vector = Task("t", loss=lambda output, target: functional.cross_entropy(output, target, reduction="none"))
    assert failure(lambda: task_losses([vector], LOGITS, LABELS)) == (
        "error[D713]: the loss of 't' must be one number, got shape (3,)"
    )


def test_a_loss_that_ends_the_process_or_is_complex_is_refused():
    """SystemExit would end a compile with nothing written, and 0."""
    leaving = Task("t", loss=lambda output, target: sys.exit(0))
    told = failure(lambda: task_losses([leaving], LOGITS, LABELS))
    assert re.match(r"tests/passes/test_tasks\.py:\d+  error\[D712\]: the loss of 't' raised SystemExit: 0", told)
    complicated = Task("t", loss=lambda output, target: output.sum() + 1j)
    assert failure(lambda: task_losses([complicated], LOGITS, LABELS)) == (
        "error[D713]: the loss of 't' must be one number, got complex shape ()"
    )


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ((torch.tensor(1.0), None), "m:joint gave (float32[], None) for 't': that is no (loss, samples)"),
        ((torch.tensor(1.0), 2.5), "m:joint gave (float32[], 2.5) for 't': that is no (loss, samples)"),
        ((torch.tensor(1.0), -1), "m:joint gave (float32[], -1) for 't': that is no (loss, samples)"),
        ((torch.tensor(1.0),), "m:joint gave (float32[]) for 't': that is no (loss, samples)"),
        ("low", "the loss of 't' from m:joint must be one number, got a str"),
        (3.0, "the loss of 't' from m:joint must be one number, got a float"),
    ],
)
def test_what_a_joint_callable_may_not_give(made, told):
    task = Task("t", joint=lambda output, target: {"t": made}, joint_name="m:joint")
    assert failure(lambda: task_losses([task], LOGITS, LABELS)).startswith(f"error[D713]: {told}")


def test_a_joint_callable_gives_a_dict():
    task = Task("t", joint=lambda output, target: output.sum(), joint_name="m:joint")
    assert failure(lambda: task_losses([task], LOGITS, LABELS)).startswith(
        "error[D713]: m:joint must return a dict, got float32[]\n  hint: it returns {task: loss};"
    )


def test_how_many_samples_may_be_a_tensor():
    task = Task("t", joint=lambda output, target: {"t": (output.sum(), torch.tensor(2.0))})
    assert batch_losses([task], LOGITS, LABELS)["t"].samples == 2


def measured(task, batches):
    metric = task.metric(CPU)
    for output, target in batches:
        metric.update(output, target)
    return float(metric.compute())


def test_metrics_over_several_batches(build):
    tasks = build(
        "tasks:\n"
        "- {name: a, loss: mse_loss, metric: {name: MulticlassAccuracy, num_classes: 2, average: micro}}\n"
        "- {name: b, loss: mse_loss, metric: MeanSquaredError}\n"
        "- {name: c, loss: mse_loss, metric: 'user_tasks:Hits'}\n"
        "- {name: d, loss: mse_loss, metric: 'user_tasks:count', higher_is_better: true}\n"
        "- {name: e, loss: mse_loss, metric: {name: PeakSignalNoiseRatio, data_range: 1.0}}\n"
        "- {name: f, loss: mse_loss, metric: {name: 'user_tasks:mae', scale: 3.0}, higher_is_better: false}\n"
    )
    halves = [(LOGITS[:1], LABELS[:1]), (LOGITS[1:], LABELS[1:])]
    assert [task.higher_is_better for task in tasks] == [True, False, True, True, True, False]
    assert measured(tasks[0], halves) == pytest.approx(2 / 3)
    assert measured(tasks[1], [(LOGITS, LOGITS + 2)]) == 4
    assert measured(tasks[2], halves) == 2
    assert measured(tasks[3], halves) == 3
    assert measured(tasks[4], [(LOGITS, LOGITS + 0.1)]) == pytest.approx(20, abs=1e-3)
    assert measured(tasks[5], [(LOGITS, LOGITS + 1), (LOGITS, LOGITS - 1)]) == 3


def test_guarantees_come_along(build):
    (task,) = build(
        "tasks: [{name: t, loss: mse_loss, metric: MeanSquaredError, guarantee: {max_drop: 10%}}]",
    )
    assert task.guarantee.allowed(2.0, task.higher_is_better) == pytest.approx(2.2)
