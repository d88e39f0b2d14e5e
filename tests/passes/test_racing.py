"""Races against full evaluations, on samples drawn for the purpose."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from passes.appraise import ENOUGH as PRICED
from passes.appraise import RacingAppraiser
from passes.certified import Judge, certified
from passes.marginal import marginal
from passes.oracle import Samples
from passes.racing import ENOUGH, LEAST, RacingRule, interval
from passes.sequential import Base, Turn, rule
from passes.walk import Yardstick
from tests.passes.tables import Table, kept, options

SIZE = 64


@dataclass
class Drawn(Table):
    """A table of samples: units removed per group -> by task the losses of every sample. `looked`: samples run."""

    total: int = 1024
    looked: dict[tuple[int, ...], int] = field(default_factory=dict)

    @property
    def batches(self):
        return -(-self.total // SIZE)

    def samples(self, keep, batches):
        key = self.removed(keep)
        n = min(batches * SIZE, self.total)
        self.looked[key] = max(n, self.looked.get(key, 0))
        return Samples({task: values[:n] for task, values in self.table[key].items()}, self.total)

    def losses(self, keep):
        return {task: float(v.mean()) for task, v in self.samples(keep, self.batches).values.items()}


def losses_of(rng, total, mean, spread=1.0):
    """Skewed and heavy-tailed, as losses are: most samples near 0, a few large."""
    drawn = rng.lognormal(0.0, spread, total)
    return drawn / drawn.mean() * mean


def pair(rng, total, rise, noise=0.5, tail=1.5):
    """Losses before, and after a cut that raises their mean by `rise`, with more `tail` in fewer samples."""
    before = losses_of(rng, total, 1.0)
    change = noise * before * rng.standard_normal(total) + losses_of(rng, total, abs(rise) + 0.02, tail)
    return before, before + change - change.mean() + rise


def judged(before, after, tolerance, confidence=0.999, decisions=1):
    """The ruling of a race and that of all samples, and how many the race looked at."""
    tasks = tuple(before)
    space = Drawn(("a",), {(0,): before, (1,): after}, {"a": 1}, weights=dict.fromkeys(tasks, 1.0))
    space.total = len(next(iter(before.values())))
    keep = space.cut(space.start, "a", 0.1).keep
    base = Base(space.losses(space.start), dict.fromkeys(tasks, space.start))
    space.looked.clear()
    turn = Turn("a", space.start, base, tolerance, dict.fromkeys(tasks, 1.0), base.losses, (), lambda step: False)
    racing = RacingRule(space, confidence, decisions)(space, turn, keep)
    looked = space.looked[(1,)]
    return racing, rule(space, turn, keep), looked


def test_a_thousand_races_decide_as_all_samples_do_unless_it_is_close():
    """In standard deviations of a sample, the rises that are judged wrongly are close to what is allowed."""
    rng = np.random.default_rng(0)
    wrong, looked = [], 0
    for _ in range(1000):
        rise = float(rng.choice([-0.3, -0.1, 0.0, 0.05, 0.1, 0.15, 0.3, 0.5, 1.0]) + rng.normal(0, 0.02))
        tolerance = float(rng.choice([0.1, 0.2, 0.4]))
        before, after = pair(rng, 4096, rise)
        ruling, truth, n = judged({"t": before}, {"t": after}, tolerance)
        looked += n
        if truth.accepted != ruling.accepted:
            excess = after - (1 + tolerance) * before
            wrong.append((excess.mean() / excess.std(), ruling.accepted))
    assert len(wrong) <= 60
    assert max(abs(at) for at, _ in wrong) <= 0.1
    assert sum(accepted for _, accepted in wrong) <= 10  # it leans to the safe side
    assert looked < 0.15 * 1000 * 4096


def test_what_a_bound_settles_is_wrong_no_more_often_than_it_may_be():
    """Rises just above the tolerance, at 95%: the worst case for a false acceptance."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(1000):
        before, after = pair(rng, 2048, 0.2 + float(rng.uniform(0, 0.03)))
        excess = after - 1.2 * before
        false += any(interval(excess[:n], 2048, 0.05).high <= 0 for n in range(SIZE, 2048, SIZE))
    assert false <= 0.05 * 1000


def test_the_interval_covers_the_mean_at_every_look():
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(1000):
        values = losses_of(rng, 1000, 1.0)
        found = [interval(values[:n], 1000, 0.05) for n in range(LEAST, 1001, 8)]
        missed += any(abs(i.mean - 1.0) > i.radius + 1e-12 for i in found)
    assert missed <= 50


def test_all_samples_leave_no_doubt_and_few_all_of_it():
    values = np.arange(100.0)
    assert interval(values, 100, 0.01).radius == 0.0
    assert interval(values[: LEAST - 1], 100, 0.01).radius == math.inf


def test_a_race_to_the_end_is_the_full_evaluation():
    before = np.ones(100)
    after = before + np.tile([1.0, -0.8], 50)  # a rise of exactly 10%
    ruling, truth, looked = judged({"t": before}, {"t": after}, 0.1 + 1e-12)
    assert (ruling.accepted, ruling.losses, looked) == (True, truth.losses, 100)


def test_the_worst_task_decides_and_its_share_of_the_error_is_its_own():
    rng = np.random.default_rng(3)
    good, bad = pair(rng, 4096, 0.0), pair(rng, 4096, 1.0)
    ruling, _, looked = judged({"s": good[0], "t": bad[0]}, {"s": good[1], "t": bad[1]}, 0.2)
    assert (ruling.accepted, ruling.task) == (False, "t")
    assert looked < 1024


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_sample_that_is_not_finite_rejects_at_once(bad):
    before, after = np.ones(4096), np.ones(4096)
    after[5] = bad
    ruling, _, looked = judged({"t": before}, {"t": after}, 0.2)
    assert (ruling.accepted, looked) == (False, SIZE)


def test_a_base_below_zero():
    rng = np.random.default_rng(4)
    before, after = pair(rng, 4096, 0.5)
    for shift, accepted in ((-3.0, True), (-1.5, False)):  # a rise of .5 over 2, and over .5
        ruling, truth, _ = judged({"t": before + shift}, {"t": after + shift}, 0.5)
        assert ruling.accepted == truth.accepted == accepted


def test_the_cost_of_a_decision_does_not_grow_with_the_calibration_set():
    looked = {}
    for total in (2_000, 20_000):
        rng = np.random.default_rng(5)
        counts = [
            judged(*({"t": x} for x in pair(rng, total, rise, 0.2, 0.5)), 0.2, decisions=190)[2]
            for rise in (-0.3, -0.1, 0.0, 0.5, 0.7, 1.0)
            for _ in range(30)
        ]
        looked[total] = sum(counts) / len(counts)
    assert looked[2_000] < 400
    assert looked[20_000] < 1.25 * looked[2_000]


def test_not_even_that_of_a_decision_that_is_close():
    """A rise of exactly what is tolerated can never be told from more: the mean of enough samples decides."""
    looked = {}
    for total in (20_000, 80_000):
        rng = np.random.default_rng(10)
        found = [judged(*({"t": x} for x in pair(rng, total, 0.2, 0.2, 0.5)), 0.2)[2] for _ in range(10)]
        assert max(found) <= ENOUGH
        looked[total] = sum(found) / len(found)
    assert looked[80_000] < 1.25 * looked[20_000]


def curve(rng, total, groups, grid):
    """Losses of every combination of steps, made as they are asked for: rises add up and are the same every time."""

    class Made(dict):
        def __missing__(self, key):
            self[key] = {"t": base + sum(parts[g][count] for g, count in enumerate(key))}
            return self[key]

    base = losses_of(rng, total, 1.0)
    parts = []
    for g in range(groups):
        step = [np.zeros(total)]
        for count in range(1, grid + 1):
            rise = 0.01 * (g + 1) * count**1.5
            noise = 0.1 * math.sqrt(count) * rng.standard_normal(total) * base
            step.append(noise - noise.mean() + rise)
        parts.append(step)
    return Made()


def test_certified_races_to_the_scan_or_one_step_below():
    grid = tuple(k / 10 for k in range(1, 10))
    table = curve(np.random.default_rng(6), 8192, 4, 9)
    given = options(search="certified", tolerance=0.1, total=1.6, grid=grid, confidence=0.999)
    macs = {"a": 4, "b": 3, "c": 2, "d": 1}
    full = Drawn(tuple("abcd"), table, macs, total=8192)
    race = Drawn(tuple("abcd"), table, macs, total=8192)
    expected = certified(full, given, 1.0)
    found = certified(race, given, 1.0, Judge(RacingRule(race, 0.999, 36)))
    below = [round(10 * (e.ratio - f.ratio)) for e, f in zip(expected.decisions, found.decisions, strict=True)]
    assert set(below) <= {0, 1}
    assert sum(race.looked.values()) < 0.7 * sum(full.looked.values())
    assert found.record.undone == ()
    assert race.looked[race.removed(found.keep)] == 8192  # what was accepted in the end was measured in whole


def test_what_does_not_hold_on_all_samples_is_not_accepted():
    """The first samples lie: on them the cuts of b cost nothing. The next smaller one is measured then."""
    total = 4096
    lying, fair = np.ones(total), np.ones(total)
    lying[2048:] += 2.0
    fair[2048:] += 0.2
    table = {(0, 0): np.ones(total), (1, 0): np.full(total, 1.05), (2, 0): np.full(total, 9.0)}
    table |= {(1, 1): fair + 0.05, (1, 2): lying + 0.05}
    space = Drawn(("a", "b"), {k: {"t": v} for k, v in table.items()}, {"a": 9, "b": 1}, total=total)
    given = options(search="certified", total=1.2, grid=(0.1, 0.2), confidence=0.99)
    outcome = certified(space, given, 1.0, Judge(RacingRule(space, 0.99, 4)))
    assert (kept(outcome), outcome.record.factors) == ({"a": 9, "b": 9}, {"t": pytest.approx(1.15)})
    assert outcome.decisions[1].losses == {"t": pytest.approx(1.15)}


def test_the_last_rejection_is_looked_at_for_longer():
    """On the first samples the second cut costs too much, by as little as 512 of them can be wrong."""
    total = 4096
    lying = 0.9657 + np.tile([2.0, -2.0], total // 2)
    lying[:512] += 1.24 - 0.9657
    table = {(0,): np.ones(total), (1,): np.full(total, 1.01), (2,): lying, (3,): np.full(total, 9.0)}
    given = options(search="certified", total=1.2, grid=(0.1, 0.2, 0.3), confidence=0.99)
    for longer, width in ((False, 9), (True, 8)):
        space = Drawn(("a",), {k: {"t": v} for k, v in table.items()}, {"a": 1}, total=total)
        racing = RacingRule(space, 0.99, 3)
        judge = Judge(racing, racing.longer() if longer else None)
        assert kept(certified(space, given, 1.0, judge)) == {"a": width}


def test_marginal_with_races_comes_close_for_a_part_of_the_samples():
    grid = tuple(k / 10 for k in range(1, 10))
    table = curve(np.random.default_rng(7), 16384, 3, 9)
    given = options(search="marginal", stop="budget", total="auto", grid=grid, swaps=3)
    spaces = [Drawn(tuple("abc"), table, {"a": 4, "b": 3, "c": 2}, limit=45, total=16384) for _ in range(2)]
    full = marginal(spaces[0], given)
    raced = marginal(spaces[1], given, RacingAppraiser(spaces[1], 1e-5))
    assert raced.record.factors["t"] <= full.record.factors["t"] * 1.05
    exact = spaces[1].losses(raced.keep)["t"] / spaces[1].losses(spaces[1].start)["t"]
    assert raced.record.factors["t"] == pytest.approx(exact)
    assert sum(spaces[1].looked.values()) < 0.4 * sum(spaces[0].looked.values())


def test_a_price_is_settled_early_where_it_is_clear_and_believed_after_enough():
    looked = {bar: list[int]() for bar in (0.01, 5.0, 1000.0)}  # the price is 0.5 / 0.1
    for seed in range(21):
        before, after = pair(np.random.default_rng(seed), 16384, 0.5)
        space = Drawn(("a",), {(0,): {"t": before}, (1,): {"t": after}}, {"a": 1}, total=16384)
        keep = space.cut(space.start, "a", 0.1).keep
        appraiser, yardstick = RacingAppraiser(space, 1e-5), Yardstick({"t": 1.0}, {"t": 0.1})
        for bar, found in looked.items():
            found.append(appraiser.appraise(space.start, keep, {"t": 1.0}, yardstick, 1.0, bar).samples)
    assert np.median(looked[1000.0]) == np.median(looked[0.01]) == LEAST
    assert np.median(looked[5.0]) > 4 * LEAST
    assert max(looked[5.0]) == PRICED


def test_a_swap_that_is_clearly_worse_is_dropped_early():
    rng = np.random.default_rng(9)
    old, new = pair(rng, 16384, 1.0)
    space = Drawn(("a",), {(0,): {"t": old}, (1,): {"t": new}}, {"a": 1}, total=16384)
    keep = space.cut(space.start, "a", 0.1).keep
    appraiser, yardstick = RacingAppraiser(space, 1e-5), Yardstick({"t": 1.0}, {"t": 0.1})
    assert not appraiser.better(keep, space.start, yardstick).better
    assert space.looked[(1,)] < PRICED
    assert appraiser.better(space.start, keep, yardstick).better
    assert space.looked[(0,)] == 16384
