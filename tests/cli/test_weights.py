"""Loading weights: prefixes, nesting, ties; names and shapes that do not match are told with near matches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pagcp_cli.weights import load_weights
from specs.diagnostics import TraceError


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 2)


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(torch.equal(left[n], right[n]) for n in left)


def trained() -> Net:
    torch.manual_seed(1)
    return Net()


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_pt(tmp_path: Path, prefix: str, nested: str | None) -> None:
    state = {prefix + name: tensor for name, tensor in trained().state_dict().items()}
    torch.save(state if nested is None else {nested: state, "epoch": 3}, tmp_path / "w.pt")
    net = Net()
    load_weights(net, tmp_path / "w.pt")
    assert same(net, trained())


def test_safetensors(tmp_path: Path) -> None:
    save_file(trained().state_dict(), tmp_path / "w.safetensors")
    net = Net()
    load_weights(net, tmp_path / "w.safetensors")
    assert same(net, trained())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    net = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    net["b"].weight = net["a"].weight
    weight = torch.arange(9.0).view(3, 3)
    state = {"a.weight": weight, "a.bias": torch.ones(3), "b.bias": torch.zeros(3)}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(net, tmp_path / "w.safetensors")
    assert torch.equal(net["b"].weight, weight)


def test_old_checkpoints_have_no_batch_counter(tmp_path: Path) -> None:
    state = {n: t for n, t in trained().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pt")
    load_weights(Net(), tmp_path / "w.pt")


def refused(tmp_path: Path, state: object) -> str:
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(TraceError) as caught:
        load_weights(Net(), tmp_path / "w.pt", "net.yaml:3:5")
    return str(caught.value)


def test_names(tmp_path: Path) -> None:
    state = trained().state_dict()
    state["haed.bias"] = state.pop("head.bias")
    assert refused(tmp_path, state) == (
        "net.yaml:3:5  error[T205]: no value for head.bias\n  hint: is it haed.bias?\n"
        "net.yaml:3:5  error[T205]: no place for haed.bias\n  hint: is it head.bias?"
    )


def test_shapes(tmp_path: Path) -> None:
    assert refused(tmp_path, {**trained().state_dict(), "head.weight": torch.zeros(2, 8)}) == (
        "net.yaml:3:5  error[T206]: head.weight is [2, 8] in the file and [2, 4] in the network\n"
        "  hint: do model.args build the network that was trained?"
    )


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    text = refused(tmp_path, {f"x{i}": torch.zeros(1) for i in range(20)})
    assert "no place for 12 more tensors" in text


def test_a_whole_model_is_no_state_dict(tmp_path: Path) -> None:
    text = refused(tmp_path, {"weights": "none"})
    assert text == (
        "net.yaml:3:5  error[T204]: w.pt holds no state dict\n"
        "  hint: save model.state_dict(), alone or under 'state_dict'"
    )
    assert refused(tmp_path, nn.Linear(1, 1)) == (
        "net.yaml:3:5  error[T204]: cannot read w.pt: it holds something other than tensors\n"
        "  hint: only tensors are read: save model.state_dict(), not the model"
    )
    assert "holds no state dict" in refused(tmp_path, {1: torch.zeros(1)})


def test_garbage(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"not tensors")
    with pytest.raises(TraceError, match=r"T204.*w\.pt"):
        load_weights(Net(), tmp_path / "w.pt")
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    with pytest.raises(TraceError, match=r"T204.*cannot read w\.safetensors"):
        load_weights(Net(), tmp_path / "w.safetensors")
