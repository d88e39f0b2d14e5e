"""The zoo's tools on small networks: unit scales, a child's limits, both sides' rows, and the page made of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bench.zoo import ours, peer
from bench.zoo.cifar import cifar_resnet
from bench.zoo.pages import coverage
from bench.zoo.process import forked
from bench.zoo.results import record, summary
from bench.zoo.scale import unit_scale


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(96, 5)
    ).eval()


@pytest.fixture(scope="module")
def once() -> dict:
    model, mine, theirs = small(), {"_send": lambda: None}, {"_send": lambda: None}
    ours.measure(model, 8, True, mine)
    peer.measure(model, 8, mine["protected"], mine["attention"], theirs)
    for row in (mine, theirs):
        del row["_send"]
    return {"name": "cifar/small", "library": "cifar", "family": "small", "size": 8, "ours": mine, "peer": theirs}


@pytest.fixture
def measured(once: dict) -> dict:
    return copy.deepcopy(once)


def test_layers_put_out_unit_scale_and_constants_become_random():
    model = small()
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
        model[3].weight.zero_()
    unit_scale(model, 8)
    seen = []
    for layer in (model[0], model[3], model[5]):
        layer.register_forward_hook(lambda _m, _i, out: seen.append(float(out.std())))
    with torch.no_grad():
        model(torch.randn(64, 3, 8, 8))
    assert all(0.4 < scale < 2.5 for scale in seen), seen
    assert float(model[1].weight.std()) > 0.1


def test_both_sides_cut_the_same_of_a_plain_network(measured: dict):
    row = record(measured)
    assert (row["status"], row["route"], row["peer"]["status"]) == ("exact", "fx", "equal")
    assert row["macs_kept"] == row["peer"]["macs_kept"] < 0.5
    assert row["compile_seconds"] > 0 < row["peer"]["seconds"]
    assert not row["silent"]


def test_a_network_cut_wrongly_is_not_equal_to_its_masked_original():
    model, original = small(), small()
    found = peer._Record(model)
    found.alive["3"], found.width["3"] = torch.arange(8).numpy()[1:], 8
    with torch.no_grad():
        model[3].weight[:, 1] = 0  # another channel than the one that was noted
    assert found.compared(original, model, 8, attention=False)["equal"] == "no"


def test_a_grouped_reader_loses_the_inputs_of_its_own_part():
    layer = nn.Conv2d(8, 4, 1, groups=2)
    with torch.no_grad():
        layer.weight.fill_(1)
        peer._zero_inputs(layer, torch.tensor([5]))
    assert layer.weight[:2].min() == 1
    assert layer.weight[2:, :, 0, 0].tolist() == [[1, 0, 1, 1]] * 2


def test_the_shortcuts_of_option_a_make_the_widths_grow():
    assert cifar_resnet(8)(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_a_child_that_raises_or_takes_too_long_has_a_row():
    def raises(row: dict) -> None:
        row["reached"] = 1
        raise ValueError("so it is")

    def spins(row: dict) -> None:
        row["reached"] = 2
        row["_send"]()
        while True:
            pass

    raised = forked(raises, 10, 64)
    assert (raised["reached"], raised["error"]["type"], raised["error"]["text"]) == (1, "ValueError", "so it is")
    stopped = forked(spins, 1, 64)
    assert (stopped["reached"], stopped["error"]["text"]) == (2, "took longer than 1 s")


def test_a_network_of_which_little_may_be_cut_counts_as_refused(measured: dict):
    row = measured
    row["ours"] |= {"prunable": 0.1, "pinned_macs": {"`Softmax` runs along the channels": 0.9}}
    got = record(row)
    assert (got["status"], got["reason"]) == (
        "refused",
        "10% of its MACs may be cut: 90% `Softmax` runs along the channels",
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"error": {"type": "GraphError", "text": "no", "trace": ""}}, "refused"),
        ({"error": {"type": "KeyError", "text": "no", "trace": ""}}, "failed"),
        ({"status": "wrong"}, "wrong"),
        ({"double": False}, "unverifiable"),
    ],
)
def test_the_status_of_a_row(measured: dict, change: dict, status: str):
    row = measured
    row["ours"] |= change
    assert record(row)["status"] == status


def test_the_page_has_counts_ratios_and_a_row_per_network(measured: dict):
    rows = [record(measured), record({"name": "timm/none", "library": "timm", "build_error": "gone"})]
    told = {
        "versions": {"torch": "2", "torch-pruning": "1"},
        "cores": 2,
        "ratio": 0.5,
        "limits": {"peer_seconds": 9},
        "summary": summary(rows),
        "rows": rows,
    }
    page = coverage(told)
    assert "| cifar | 1 | 1 | 0 | 0 | 0 | 0 | 1 | 0 | 0 | 0 | 0 |" in page
    assert "- timm/none: failed: not built: gone" in page
    assert "(1 networks): median 1.0," in page
    assert "| small | 8 | fx | exact | 100% | 100% |" in page
