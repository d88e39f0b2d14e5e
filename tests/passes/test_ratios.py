"""Cutting by score, on channel graphs written by hand."""

import numpy as np
import pytest

from pagcp_ir.channels import Binding, ChannelGraph, Group, Pin
from pagcp_ir.planning import legal
from passes.ratios import Cutter, least
from specs.diagnostics import PassError
from specs.options import SelectorOptions


def graph(axes, groups, pins=()):
    """axes: lists of units; groups: name -> units; the last unit is always kept."""
    n_units = 1 + max(max(axis) for axis in axes)
    bindings = tuple(Binding(f"t{i}.weight", 0, np.array(axis), "out") for i, axis in enumerate(axes))
    return ChannelGraph(
        n_units=n_units + 1,
        groups=tuple(Group(name, np.array(units), (name,), (), "net.py:1") for name, units in groups.items()),
        bindings=bindings,
        pins=tuple(Pin(np.array(p), "is read by something opaque", "net.py:2") for p in pins),
        values={},
        layers=(),
        tensors={},
        contracted=np.zeros(n_units + 1, dtype=np.bool_),
    )


def plain(width):
    return graph([range(width)], {"a": range(width)})


def cut(channels, ratio, scores=None, keep=None, name="a", **given):
    cutter = Cutter(channels, SelectorOptions(**given))
    group = channels.group(name)
    scores = np.arange(len(group.units), dtype=np.float64) if scores is None else np.array(scores, dtype=np.float64)
    trim = cutter.cut(channels.all if keep is None else keep, group, scores, ratio)
    return [int(i) for i in np.flatnonzero(~trim.keep)], trim.note


def test_the_lowest_go_and_ties_go_by_index():
    assert cut(plain(6), 0.5, [3, 1, 2, 1, 1, 9]) == ([1, 3, 4], "")


@pytest.mark.parametrize(("ratio", "count"), [(0.15, 3), (0.29, 5), (0.149, 2), (0.05, 1), (0.049, 0)])
def test_floor_of_the_ratio_in_spite_of_its_binary_expansion(ratio, count):
    assert len(cut(plain(20), ratio)[0]) == count


def test_ratios_are_over_the_original_width():
    channels = plain(10)
    keep = channels.all
    keep[[7, 8, 9]] = False
    assert cut(channels, 0.5, keep=keep) == ([0, 1, 7, 8, 9], "")
    assert cut(channels, 0.3, keep=keep) == ([7, 8, 9], "")
    assert cut(channels, 0.1, keep=keep) == ([7, 8, 9], "")


def test_one_channel_stays_whatever_is_asked():
    """W3: ratio 0.99 of a narrow layer."""
    assert cut(plain(3), 0.99, max_ratio=1.0) == ([0, 1], "")
    assert cut(plain(3), 1.0, max_ratio=1.0) == ([0, 1], "at least 1 channels stay")
    assert cut(plain(10), 1.0, max_ratio=1.0, min_channels=4) == ([0, 1, 2, 3, 4, 5], "at least 4 channels stay")


def test_an_axis_narrower_than_min_channels_stays_whole():
    assert cut(plain(3), 0.9, min_channels=4)[0] == []


def test_every_axis_keeps_its_minimum_not_only_the_widest():
    # as in a chain of zero-padded shortcuts: units 0 and 1 lie on the narrow axis as well
    channels = graph([[0, 1], range(8)], {"a": range(8)})
    assert cut(channels, 0.5) == ([0, 2, 3, 4], "")


def test_pinned_units_stay():
    assert cut(graph([range(6)], {"a": range(6)}, pins=[[0, 1, 2, 3]]), 0.5) == (
        [4, 5],
        "the rest of its units are pinned",
    )


def test_max_ratio_and_scopes_take_the_strictest():
    removed, note = cut(plain(10), 1.0, max_ratio=0.7)
    assert (len(removed), note) == (7, "max_ratio lets no more than 7 of 10 channels go")
    assert len(cut(plain(10), 1.0, scopes={"a": {"max_ratio": 0.3}, "*": {"max_ratio": 0.5}})[0]) == 3
    channels = plain(10)
    assert Cutter(channels, SelectorOptions(scopes={"a*": {"max_ratio": 0.0}})).groups == ()


def test_a_scope_that_matches_nothing_is_an_error():
    """W7."""
    with pytest.raises(PassError) as caught:
        cut(graph([range(4)], {"layer10": range(4)}), 0.5, name="layer10", scopes={"layer1": {"max_ratio": 0.1}})
    assert str(caught.value) == ("error[P402]: the scope 'layer1' matches no group\n  hint: did you mean layer10?")


@pytest.mark.parametrize(
    ("ratio", "kept", "note"),
    [
        (0.1, 20, "20 channels cannot be cut to a multiple of 8 at this ratio"),
        (0.2, 16, ""),
        (0.3, 16, "kept 16, a multiple of 8"),
        (0.6, 8, ""),
        (0.95, 8, "kept 8, a multiple of 8"),
    ],
)
def test_round_to(ratio, kept, note):
    """W5: 20 channels and multiples of 8."""
    removed, why = cut(plain(20), ratio, round_to=8)
    assert (20 - len(removed), why) == (kept, note)
    assert removed == list(range(20 - kept))


def test_round_to_holds_on_every_axis():
    channels = graph([range(8), range(16), range(32)], {"a": range(32)})
    scores = np.random.default_rng(0).random(32)
    for ratio, fewest in ((0.4, 4), (0.6, 12), (0.8, 20)):
        removed, _ = cut(channels, ratio, scores, round_to=4)
        assert len(removed) >= fewest
        assert [sum(i not in removed for i in range(n)) % 4 for n in (8, 16, 32)] == [0, 0, 0]


def test_scoped_round_to_combines_by_lcm():
    assert 24 - len(cut(plain(24), 0.4, round_to=4, scopes={"a": {"round_to": 6}})[0]) == 24
    assert 24 - len(cut(plain(24), 0.5, round_to=4, scopes={"a": {"round_to": 6}})[0]) == 12


def test_no_scores_no_cut():
    channels = plain(4)
    trim = Cutter(channels, SelectorOptions()).cut(channels.all, channels.groups[0], None, 0.5)
    assert trim.keep.all()
    assert trim.note == "the criterion gives this group no scores"


def test_a_higher_ratio_never_keeps_more():
    """W11, on random graphs, scores and options; and every result is legal."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        width = int(rng.integers(2, 24))
        axes = [range(width)] + [rng.choice(width, rng.integers(1, width + 1), replace=False) for _ in range(2)]
        channels = graph(axes, {"a": range(width)})
        options = {"min_channels": int(rng.integers(1, 4)), "max_ratio": 1.0}
        scores = rng.integers(0, 4, width)
        before: set[int] = set()
        for ratio in np.linspace(0, 1, 21):
            removed, _ = cut(channels, float(ratio), scores, **options)
            assert before <= set(removed)
            before = set(removed)
            keep = channels.all
            keep[removed] = False
            assert legal(channels, keep, options["min_channels"])


def test_least_takes_everything_that_may_go():
    channels = graph([range(10), range(10, 14)], {"a": range(10), "b": range(10, 14)}, pins=[[10, 11]])
    keep = least(channels, channels.all, SelectorOptions(max_ratio=0.8, min_channels=2))
    assert (int(keep[:10].sum()), int(keep[10:14].sum())) == (2, 2)
