"""Labels that some samples lack, and tasks with data of their own: sums by hand, over those that have them."""

import numpy as np
import pytest
import torch
from torch import nn

from pagcp_ir.analyse import analyse
from pagcp_ir.program import TensorSpec
from pagcp_ir.trace import trace
from passes.data import Split, _split_or_parts
from passes.labels import Partial, TargetOf, collate, join, lacking, take
from passes.measure import mean_losses, measure
from passes.metrics import Whole
from passes.oracle import RealOracle
from passes.samples import shuffled
from passes.task_taylor import effects
from passes.tasks import Part, Task, batch_losses, labelled, part_of, task_losses, weighted
from specs.diagnostics import DataError

# Sample i: the input is i, the network's outputs are i and 2 i. A task's target is 0 where there is one, so that its
# loss (the absolute error) is the output.
SEG = [0.0, None, 0.0, 0.0, None, None, None]
BOX = [None, 0.0, 0.0, None, None, None, 0.0]


def error(output, target):
    return (output.reshape(len(output), -1) - target.reshape(len(target), -1)).abs().mean()


TASKS = (Task("seg", "seg", "seg", loss=error), Task("box", "box", "box", loss=error))
OF_SEG = (0 + 2 + 3) / 3
OF_BOX = 2 * (1 + 2 + 6) / 3


class Doubling(nn.Module):
    """[N, 1, 1, 1] -> {"seg": x [N, 1], "box": 2 x [N, 1]}, through two channels that are both x."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 2, 1, bias=False)
        self.seg, self.box = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
        for layer, value in ((self.wide, 1.0), (self.seg, 0.5), (self.box, 1.0)):
            nn.init.constant_(layer.weight, value)

    def forward(self, x):
        x = self.wide(x).flatten(1)
        return {"seg": self.seg(x), "box": self.box(x)}


@pytest.fixture(scope="module")
def program():
    return trace(Doubling().eval(), [TensorSpec((1, 1, 1, 1))])


def value(number):
    return None if number is None else torch.tensor([number])


def image(i):
    return torch.full((1, 1, 1), float(i))


def samples():
    return [(image(i), {"seg": value(s), "box": value(b)}) for i, (s, b) in enumerate(zip(SEG, BOX, strict=True))]


def split(source=None, **given):
    return Split("calibration", samples() if source is None else source, **{"batch_size": 2, **given})


def failure(act):
    with pytest.raises(DataError) as caught:
        act()
    return str(caught.value)


def rows(target):
    return {key: part.rows.tolist() if isinstance(part, Partial) else "all" for key, part in target.items()}


def test_a_batch_knows_which_samples_have_which_label():
    found = split().cached()
    assert [batch.size for batch in found] == [2, 2, 3]
    assert [rows(batch.target) for batch in found] == [
        {"seg": [0], "box": [1]},
        {"seg": "all", "box": [0]},
        {"seg": [], "box": [2]},
    ]
    assert found[2].target["seg"].value is None
    assert found[2].target["box"].value.tolist() == [[0.0]]


def test_without_missing_labels_a_batch_is_torchs_own():
    whole = [(image(i), {"a": (i, [i, i]), "b": torch.tensor(i)}) for i in range(3)]
    inputs, target = collate(whole)
    assert inputs.shape == (3, 1, 1, 1)
    assert [part.tolist() for part in (target["a"][0], *target["a"][1], target["b"])] == [[0, 1, 2]] * 4


def test_keys_that_differ_are_no_missing_labels():
    given = [(image(0), {"seg": 0.0}), (image(1), {"sag": 0.0})]
    assert failure(lambda: split(given).cached()) == (
        "error[D704]: the calibration split raised ValueError at batch 0: targets have the keys ['seg'] and ['sag']; "
        "where a label is missing its value is None"
    )


def test_a_task_sees_the_samples_with_its_label():
    first, second, third = split().cached()
    output = {"seg": torch.tensor([[5.0], [6.0]]), "box": torch.tensor([[7.0], [8.0]])}
    box = part_of(TASKS[1], output, first.target)
    assert (box.output.tolist(), box.target.tolist(), box.samples) == ([[8.0]], [[0.0]], 1)
    assert part_of(TASKS[0], output, second.target) == Part(output["seg"], second.target["seg"])
    assert part_of(TASKS[0], output, third.target) is None
    assert [labelled(task, third.target, 3) for task in TASKS] == [0, 1]
    assert list(task_losses(TASKS, {"seg": None, "box": torch.ones(3, 1)}, third.target)) == ["box"]
    assert float(weighted(TASKS, {"box": 3.0})) == 3.0


def test_labels_that_are_missing_deeper_down_or_as_a_whole():
    given = [{"face": {"box": i, "age": None}} if i else {"face": None} for i in range(3)]
    _, target = collate([(image(i), each) for i, each in enumerate(given)])
    output = torch.arange(3.0)
    box, age = (Task(key, None, f"face.{key}", loss=error) for key in ("box", "age"))
    found = part_of(box, output, target)
    assert (found.output.tolist(), found.target.tolist(), found.samples) == ([1.0, 2.0], [1, 2], 2)
    assert part_of(age, output, target) is None
    _, target = collate([(image(0), None), (image(1), 4)])
    found = part_of(Task("t", loss=error), output[:2], target)
    assert (found.output.tolist(), found.target.tolist()) == ([1.0], [4])
    _, target = collate([(image(0), (1, None)), (image(1), (2, 3))])
    assert part_of(Task("t", None, 1, loss=error), output[:2], target).output.tolist() == [1.0]


def test_a_value_that_stands_for_no_label():
    target = {"age": torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]]), "smile": torch.tensor([-1, 2])}
    output = torch.arange(2.0)
    age = part_of(Task("t", None, "age", loss=error, missing="nan"), output, target)
    assert (age.output.tolist(), age.samples) == ([0.0], 1)  # in part is not missing: that is for the loss to see
    smile = part_of(Task("t", None, "smile", loss=error, missing=-1), output, target)
    assert (smile.output.tolist(), smile.target.tolist()) == ([1.0], [2])
    assert part_of(Task("t", None, "smile", loss=error, missing=7), output, target).samples is None
    assert part_of(Task("t", None, "smile", loss=error, missing=-1), output, {"smile": torch.tensor([-1, -1])}) is None
    assert failure(lambda: part_of(Task("t", loss=error, missing=-1), output, "text")) == (
        "error[D716]: task 't': missing: -1 needs a target that is a tensor with the samples first, got str"
    )


def test_what_cannot_be_told_apart_is_refused():
    target = split().cached()[0].target
    whole = Task("t", loss=error)
    assert failure(lambda: task_losses([whole], torch.ones(2), target)) == (
        "error[D716]: the target of 't' has parts that some samples lack\n"
        "  hint: `target` selects the part that the task's loss and metric take"
    )
    assert failure(lambda: task_losses(TASKS, {"seg": torch.tensor(1.0), "box": torch.tensor(1.0)}, target)) == (
        "error[D716]: some samples have no label for 'seg', but its output does not hold the samples first: "
        "it is float32[]"
    )
    joint = Task("seg", joint=lambda output, target: {"seg": output.sum()})
    assert failure(lambda: task_losses([joint], torch.ones(2), target)).startswith(
        "error[D716]: losses sees whole targets, of which some samples lack a part\n  hint: data.collate"
    )


def test_a_joint_callable_says_itself_of_how_many_samples_its_losses_are():
    def joint(output, target):
        return {"a": output.mean(), "b": (output.sum(), 3), "c": (output.sum(), 0), "d": None}

    tasks = [Task(name, joint=joint) for name in "abcd"]
    found = batch_losses(tasks, torch.ones(4), torch.ones(4))
    assert {name: (float(loss.value), loss.of(4)) for name, loss in found.items()} == {"a": (1.0, 4), "b": (4.0, 3)}


def test_losses_are_means_over_the_samples_with_the_label(program):
    channels = analyse(program)
    oracle = RealOracle(TASKS, split().cached())
    assert oracle.losses(program, channels, channels.all) == pytest.approx({"seg": OF_SEG, "box": OF_BOX})
    keep = channels.all
    keep[channels.group("wide").units[0]] = False  # halves every output
    assert oracle.losses(program, channels, keep) == pytest.approx({"seg": OF_SEG / 2, "box": OF_BOX / 2})
    assert mean_losses(program, TASKS, split()) == pytest.approx({"seg": OF_SEG, "box": OF_BOX})


def test_samples_are_those_with_the_label(program):
    channels = analyse(program)
    oracle = RealOracle(TASKS, split().cached())
    found = oracle.samples(program, channels, channels.all, oracle.batches)
    assert {task: sorted(values.tolist()) for task, values in found.values.items()} == {
        "seg": [0.0, 2.0, 3.0],
        "box": [2.0, 4.0, 12.0],
    }
    assert [found.of(task.name) for task in TASKS] == [3, 3]
    assert oracle.losses(program, channels, channels.all) == pytest.approx({"seg": OF_SEG, "box": OF_BOX})
    part = oracle.samples(program, channels, channels.all, 1)
    assert sum(map(len, part.values.values())) < 6


def test_gradients_and_effects_weigh_by_the_number_of_labels(program):
    channels = analyse(program)
    oracle = RealOracle(TASKS, split().cached())
    # the losses are sums over the two channels c of seg_c x / 3 over samples 0, 2, 3, and likewise for box
    assert oracle.gradients(program)["seg.weight"].tolist() == [[pytest.approx(OF_SEG)] * 2]
    assert oracle.gradients(program)["box.weight"].tolist() == [[pytest.approx(OF_BOX / 2)] * 2]
    found = effects(program, channels, TASKS, split().cached())
    away = {i: i - sum(range(7)) / 7 for i in range(7)}  # every channel is the input; its mean is over all samples
    expected = np.mean([(0.5 * away[i]) ** 2 for i in (2, 3)] + [0.0])  # where the error is 0 its derivative is
    np.testing.assert_allclose(found["seg"][channels.group("wide").units], expected)


def test_metrics_see_the_samples_with_the_label(program):
    def numbers(output, target):
        return len(output) * 100 + output.sum()

    tasks = [Task(t.name, t.output, t.target, loss=error, metric=lambda device: Whole(numbers)) for t in TASKS]
    assert measure(program, tasks, split()) == {"seg": 305.0, "box": 318.0}


def test_a_split_without_any_label_of_a_task_is_refused():
    bare = [(x, {**target, "box": None}) for x, target in samples()]
    message = "error[D715]: no sample of the calibration split has a label for the task 'box'"
    assert failure(lambda: RealOracle(TASKS, split(bare).cached())) == message


def test_batches_with_and_without_labels_are_joined_and_taken_apart():
    batches = split().cached()
    whole = join([batch.target for batch in batches], [batch.size for batch in batches])
    assert rows(whole) == {"seg": [0, 2, 3], "box": [1, 2, 6]}
    assert lacking(whole)
    taken = take(whole, torch.tensor([6, 3, 4, 2]))
    assert rows(taken) == {"seg": [1, 3], "box": [0, 3]}
    assert take(whole, torch.tensor([4, 5]))["seg"].value is None
    mixed = shuffled(batches)
    assert [batch.size for batch in mixed] == [2, 2, 3]
    seen = [(int(x), i in b.target["box"].rows) for b in mixed for i, x in enumerate(b.inputs[0].flatten())]
    assert sorted(seen) == [(i, BOX[i] is not None) for i in range(7)]


def parted():
    data = {
        "seg": [(image(i), torch.tensor([0.0])) for i in (1, 2, 3)],
        "box": [(image(i), torch.tensor([0.0])) for i in (4, 5, 6, 7, 8)],
    }
    return _split_or_parts(split([]), data, ["seg", "box"], "s.yaml:1:1")


ALONE = (Task("seg", "seg", loss=error), Task("box", "box", loss=error))


def test_each_task_has_its_own_data(program):
    found, channels = parted(), analyse(program)
    assert len(found) == 8
    expected = {"seg": 2.0, "box": 2 * 6.0}
    oracle = RealOracle(ALONE, found.cached())
    assert oracle.losses(program, channels, channels.all) == pytest.approx(expected)
    assert mean_losses(program, ALONE, found) == pytest.approx(expected)
    samples = oracle.samples(program, channels, channels.all, oracle.batches)
    assert sorted(samples.values["seg"].tolist()) == [1.0, 2.0, 3.0]
    assert sorted(samples.values["box"].tolist()) == [8.0, 10.0, 12.0, 14.0, 16.0]
    assert [samples.of(task.name) for task in ALONE] == [3, 5]


def test_training_batches_of_tasks_are_mixed():
    given = {"seg": [(image(i), 0) for i in range(8)], "box": [(image(i), 0) for i in range(4)]}
    found = _split_or_parts(split([]), given, ["seg", "box"], "")
    order = ["".join(sorted(batch.target.tasks)) for batch in found.shuffled(1)]
    assert order == ["seg", "box", "seg", "seg", "box", "seg"]
    inputs = [batch.inputs[0].flatten().tolist() for batch in found.shuffled(1)]
    assert inputs != [batch.inputs[0].flatten().tolist() for batch in found.shuffled(2)]


def test_tasks_that_share_their_data_share_its_batches():
    data = [(image(i), {"seg": 0.0, "box": 0.0}) for i in range(2)]
    (batch,) = _split_or_parts(split([]), {"seg": data, "box": data}, ["seg", "box"], "").cached()
    assert batch.target.tasks == {"seg", "box"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"seg": [1], "bax": [1]},
            "the calibration split has data for an unknown task 'bax'\n  hint: did you mean box?",
        ),
        ({"seg": [1]}, "the calibration split has no data for the task 'box'"),
        ({"seg": [1], "box": []}, "the calibration (box) split is empty"),
    ],
)
def test_what_is_wrong_with_data_by_task(given, told):
    message = failure(lambda: _split_or_parts(split([]), given, ["seg", "box"], "s.yaml:5:3"))
    assert told in message
    assert message.startswith("s.yaml:5:3  error[D7")


def test_a_joint_callable_counts_for_the_tasks_whose_data_it_is():
    tasks = [
        Task(name, joint=lambda output, target: {"seg": output.sum(), "box": target.sum()}) for name in ("seg", "box")
    ]
    found = task_losses(tasks, torch.ones(2), TargetOf(frozenset(["box"]), torch.ones(3)))
    assert {name: float(loss) for name, loss in found.items()} == {"box": 3.0}


# collate functions of the user's: an image has any number of boxes, each with the number of its image in the batch


def boxes(samples):
    images = torch.stack([x for x, _ in samples])
    found = [torch.cat([torch.full((len(b), 1), float(i)), b], 1) for i, (_, b) in enumerate(samples)]
    return images, torch.cat(found)


def stacked(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


def test_targets_of_varying_length_are_never_taken_apart():
    # one box in each image: by its shape alone the target might be one of single samples
    given = [(image(i), torch.tensor([[float(i)]])) for i in range(6)]
    batches = split(given, collate=boxes).cached()
    assert not any(batch.by_row for batch in batches)
    for batch in shuffled(batches):
        np.testing.assert_array_equal(batch.target[:, 0], range(batch.size))
        np.testing.assert_array_equal(batch.target[:, 1], batch.inputs[0].flatten())


def test_a_collate_function_that_keeps_samples_apart_is_seen_to():
    given = [(image(i), torch.tensor([float(i), torch.nan])) for i in range(6)]
    batches = split(given, collate=stacked).cached()
    assert all(batch.by_row for batch in batches)
    assert [b.inputs[0].flatten().tolist() for b in shuffled(batches)] != [[0, 1], [2, 3], [4, 5]]


def test_a_collate_function_that_takes_no_single_sample_is_seen_to():
    def pairs(samples):
        if len(samples) < 2:
            raise ValueError("two at least")
        return stacked(samples)

    assert not any(batch.by_row for batch in split([(image(i), image(i)) for i in range(4)], collate=pairs).cached())


def test_whole_batches_of_varying_length_are_raced_by_the_batch(program):
    def joint(output, target):
        return {"seg": output["seg"].mean(), "box": (output["box"].sum() + target.sum() * 0, max(1, len(target)))}

    tasks = [Task("seg", joint=joint), Task("box", joint=joint)]
    given = [(image(i), torch.full((i % 3, 1), float(i))) for i in range(6)]
    channels = analyse(program)
    oracle = RealOracle(tasks, split(given, collate=boxes).cached())
    found = oracle.samples(program, channels, channels.all, 3)
    assert (len(found.values["seg"]), found.of("seg")) == (3, 3)
    losses = oracle.losses(program, channels, channels.all)
    assert losses["seg"] == pytest.approx(2.5)
    assert losses["box"] == pytest.approx((2 * (0 + 1) * 1 + 2 * (2 + 3) * 2 + 2 * (4 + 5) * 3) / (1 + 2 + 3))
