"""Checkpoints: whole or not there, of the run before alone; a transformer that ended is not run again."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch

from passes.answers import Answers
from passes.base import run_passes
from passes.journal import Journal, read_journal
from passes.oracle import RealOracle
from passes.resume import Checkpoint, Checkpoints
from specs.options import PassOptions


@dataclass(frozen=True)
class Doubling:
    """A transformer that counts its runs, and doubles the weights in two steps, the first of which it saves."""

    runs: list
    killed: bool = False
    options: PassOptions = field(default_factory=PassOptions)
    name: ClassVar = "doubling"
    kind: ClassVar = "transformer"

    def run(self, state, ctx):
        saved = ctx.checkpoint.load()
        self.runs.append(None if saved is None else saved["step"])
        program = replace(state.program, module=state.program.copy())
        if saved is None:
            ctx.note("epoch", epoch=1)
            ctx.checkpoint.save({"step": 1, "more": [torch.ones(2), {"a": None, "b": 0.5}]})
        if self.killed:
            raise KeyboardInterrupt
        with torch.no_grad():
            for parameter in program.module.parameters():
                parameter.mul_(2)
        ctx.note("kept", epoch=2)
        return replace(state, program=program)


def gone_on(case, folder, *passes):
    with Journal(folder / "journal.jsonl", folder / "rows") as journal:
        (folder / "checkpoints").mkdir(exist_ok=True)
        ctx = replace(case.ctx, journal=journal, checkpoints=Checkpoints(folder / "checkpoints"))
        return run_passes(passes, case.state, ctx)


def test_a_state_is_loaded_by_the_next_run_alone(case, tmp_path):
    runs = []
    with pytest.raises(KeyboardInterrupt):
        gone_on(case, tmp_path, Doubling(runs, killed=True))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["001-doubling.running.pt"]
    gone_on(case, tmp_path, Doubling(runs))
    assert runs == [None, 1]
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["001-doubling.done.pt"]


def test_what_has_ended_is_taken_up_as_it_was(case, tmp_path):
    runs = []
    once = gone_on(case, tmp_path, Doubling(runs), Doubling(runs))
    again = gone_on(case, tmp_path, Doubling(runs), Doubling(runs))
    assert runs == [None, None]
    assert again.program is not once.program
    for name, tensor in once.program.tensors().items():
        assert tensor.equal(again.program.tensors()[name])
    kinds = [record["kind"] for record in read_journal(tmp_path / "journal.jsonl")]
    assert kinds == ["pass_start", "epoch", "kept", "pass_end"] * 2


def test_a_file_that_is_not_whole_is_not_there(case, tmp_path):
    runs = []
    gone_on(case, tmp_path, Doubling(runs))
    (file,) = (tmp_path / "checkpoints").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    gone_on(case, tmp_path, Doubling(runs))
    assert runs == [None, None]


def test_a_file_that_was_damaged_is_not_there(case, tmp_path):
    """torch.load would not notice a bit of a weight."""
    checkpoint = Checkpoint(tmp_path / "a.pt", there=True)
    checkpoint.save({"weight": torch.ones(100)})
    whole = bytearray(checkpoint.path.read_bytes())
    at = whole.index(torch.ones(1).numpy().tobytes())
    whole[at + 3] ^= 0x80
    checkpoint.path.write_bytes(whole)
    assert checkpoint.load() is None


def test_what_does_not_fit_is_made_anew(case, tmp_path):
    runs = []
    gone_on(case, tmp_path, Doubling(runs))
    (file,) = (tmp_path / "checkpoints").iterdir()
    torch.save({"stem.weight": torch.ones(1)}, file)
    gone_on(case, tmp_path, Doubling(runs))
    assert runs == [None, None]


def test_answers_of_the_run_before_are_not_measured_again(case, tmp_path):
    keep = case.state.channels.all
    keep[case.state.channels.group("inner").units[::2]] = False
    found = []
    for _ in range(2):
        with Journal(tmp_path / "journal.jsonl", tmp_path / "rows") as journal:
            batches = case.ctx.data["calibration"].cached()
            oracle = RealOracle(case.ctx.tasks, batches, Answers(journal))
            program, channels = case.state.program, case.state.channels
            parts = [oracle.samples(program, channels, keep, count).values["map"].tolist() for count in (1, 2)]
            found.append((parts, dict(oracle.losses(program, channels, keep)), oracle.usage))
    assert found[0] == found[1]  # to the bit, and what it cost
    answers = [r for r in read_journal(tmp_path / "journal.jsonl") if r["kind"] == "answer"]
    assert [r["done"] for r in answers] == [1, 2]


def test_an_answer_is_of_one_network_alone(case, tmp_path):
    state, ctx = case.state, case.ctx
    other = replace(state.program, module=state.program.copy())
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.5)
    losses = []
    for program in (state.program, other):
        with Journal(tmp_path / "journal.jsonl", tmp_path / "rows") as journal:
            oracle = RealOracle(ctx.tasks, ctx.data["calibration"].cached(), Answers(journal))
            losses.append(oracle.losses(program, state.channels, state.channels.all))
    assert losses[0] != losses[1]
