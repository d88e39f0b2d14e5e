"""Splits: fixed batches, subsets, and what is said when data do not fit."""

import textwrap
import zlib

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler

import passes.data as data
from passes.batches import chunks
from passes.data import Split, Splits, load_splits
from specs.diagnostics import DataError
from specs.spec import load_spec


def numbers(n, start=0):
    return [(torch.full((2, 3), float(start + i)), torch.tensor(start + i)) for i in range(n)]


def split(source, **given):
    return Split("calibration", source, **{"batch_size": 4, **given})


def targets(batches):
    return [batch.target.tolist() for batch in batches]


def failure(act):
    with pytest.raises(DataError) as caught:
        act()
    return str(caught.value)


def test_a_short_last_batch_is_merged_into_the_one_before():
    assert chunks(range(9), 4) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert chunks(range(8), 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert chunks(range(3), 4) == [[0, 1, 2]]
    batches = split(numbers(9)).cached()
    assert [b.size for b in batches] == [4, 5]
    assert targets(batches) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert batches[1].inputs[0].shape == (5, 2, 3)


def test_a_seeded_subset_in_order():
    chosen = split(numbers(50), seed=1).sample(7)
    assert len(chosen) == 7
    order = [t for batch in targets(chosen.batches()) for t in batch]
    assert order == sorted(order)
    assert order == [t for batch in targets(split(numbers(50), seed=1).sample(7).batches()) for t in batch]
    assert order != [t for batch in targets(split(numbers(50), seed=2).sample(7).batches()) for t in batch]
    assert len(split(numbers(5)).sample(7)) == 5


def test_shuffling_depends_on_seed_and_epoch_alone():
    source = split(numbers(20))
    before = torch.get_rng_state()
    first, again, other = (targets(source.shuffled(epoch)) for epoch in (1, 1, 2))
    assert first == again != other
    assert sorted(t for batch in first for t in batch) == list(range(20))
    assert targets(split(numbers(20), seed=5).shuffled(1)) != first
    assert [len(b) for b in targets(source.shuffled(1, batch_size=15))] == [20]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_in_order_or_shuffled_is_read_in_our_order():
    for shuffle in (False, True):
        opened = data._split(split(None), DataLoader(numbers(7), batch_size=3, shuffle=shuffle), "")
        assert targets(opened.batches()) == [[0, 1, 2], [3, 4, 5, 6]]


def test_a_loader_with_its_own_sampler_is_iterated_as_it_is():
    loader = DataLoader(numbers(6), batch_size=3, sampler=WeightedRandomSampler([1.0, 0, 0, 0, 0, 0], 6))
    assert targets(data._split(split(None), loader, "").batches()) == [[0, 0, 0], [0, 0, 0]]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(numbers(5))


def test_a_stream_is_read_but_cannot_be_sampled():
    stream = data._split(split(None), Stream(), "")
    assert targets(stream.batches()) == [[0, 1, 2, 3], [4]]
    assert failure(lambda: stream.sample(3)) == (
        "error[D710]: 3 samples of the calibration split were asked for, but it cannot be indexed\n"
        "  hint: give a dataset with __len__ and __getitem__"
    )


class Broken(list):
    def __getitem__(self, index):
        if index == 5:
            raise OSError("disk on fire")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    ("source", "given", "told"),
    [
        (
            Broken(numbers(8)),
            {},
            "error[D704]: the calibration split raised OSError at batch 1: disk on fire",
        ),
        (Stream, {"source": []}, "error[D705]: the calibration split is empty"),
        (
            [torch.zeros(2, 3)] * 2,
            {},
            "error[D707]: calibration split, batch 0: expected (input, target), got a Tensor",
        ),
        ([("a", 1)], {}, "error[D707]: calibration split, batch 0: input 0 is a str, not a tensor"),
        (
            [(torch.tensor([1.0, torch.inf]), 0)],
            {},
            "error[D708]: calibration split, batch 0: input 0 holds NaN or infinity",
        ),
        (
            numbers(2),
            {"shapes": ((1, 3, 3),)},
            "error[D707]: calibration split, batch 0: input 0 has shape [2, 2, 3], expected [N, 3, 3]",
        ),
        (
            numbers(2),
            {"shapes": ((1, 2, 3), (1, 2))},
            "error[D707]: calibration split, batch 0: the network takes 2 inputs, got 1",
        ),
    ],
)
def test_what_does_not_fit(source, given, told):
    given = {"source": source, **given}
    message = failure(lambda: split(**given).cached())
    place = "tests/passes/test_data.py:94  " if "raised" in told else ""  # the line of the data set that raised
    assert message == place + told


def test_image_sizes_may_differ_from_the_spec():
    assert len(split(numbers(2), shapes=((1, 2, 99),)).cached()) == 1


def test_more_than_the_memory_set_aside(monkeypatch):
    monkeypatch.setattr(data, "CACHE_LIMIT", 100)
    assert failure(lambda: split(numbers(8)).cached()).startswith("error[D706]: the calibration split takes more than")


SPEC = """
version: 1
seed: 3
model: {factory: "m:f", inputs: [[1, 2, 3]]}
data: {factory: "FACTORY:make", batch_size: 4, calibration: {samples: 5}}
tasks: [{name: t, loss: mse_loss}]
passes: [finetune]
"""


@pytest.fixture
def spec(tmp_path, monkeypatch, request):
    """load(body of make()) -> Spec."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"data_{zlib.crc32(request.node.name.encode())}"  # no two tests import the same module

    def load(body):
        source = "import torch\n" + textwrap.dedent(
            """
            def numbers(n):
                return [(torch.rand(2, 3), torch.rand(())) for i in range(n)]
            """
        )
        (tmp_path / f"{name}.py").write_text(f"{source}def make():\n    {body}\n")
        (tmp_path / "s.yaml").write_text(SPEC.replace("FACTORY", name))
        return load_spec(tmp_path / "s.yaml")

    return load


CPU = torch.device("cpu")


def test_the_specs_factory(spec):
    before = torch.get_rng_state()
    given = spec("return {'train': numbers(9), 'calibration': numbers(9), 'validation': numbers(3)}")
    splits = load_splits(given, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert [b.size for b in splits["calibration"].cached()] == [5]
    assert [b.size for b in splits["train"].cached()] == [4, 5]
    assert splits.judge == (splits["validation"], "validation")
    assert failure(lambda: splits["test"]) == (
        f"{given.where('data.factory')}  error[D709]: {given.data.factory} returned no 'test' split; "
        "it returned train, calibration, validation"
    )


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return numbers(3)", "make must return a dict of splits, got a list"),
        ("return {'valid': numbers(3)}", "make returns an unknown split 'valid'\n  hint: did you mean validation"),
        ("return {'train': []}", "the train split is empty"),
        ("return {'train': 3}", "the train split is a int, neither a dataset nor a DataLoader"),
        ("raise KeyError('x')", "make raised KeyError: 'x'"),
    ],
)
def test_what_the_factory_does_wrong(spec, body, told):
    loaded = spec(body)
    message = failure(lambda: load_splits(loaded, CPU))
    assert told in message
    assert "s.yaml:5:17  error[D70" in message


def test_guarantees_are_measured_on_test_where_there_is_one():
    splits = Splits({"validation": split(numbers(2)), "test": split(numbers(3))})
    assert splits.judge == (splits["test"], "test")
