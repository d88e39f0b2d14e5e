"""`python -m bench.latency`: what cutting to 40% of the MACs does to the time, and budgets on the time, as measured.

ResNet-20 for CIFAR and MobileNetV3-Large in its published widths, with random weights: time does not depend on them.
Each is cut by `uniform`, as it is and with widths at multiples of 8, and timed in turns with the original. Then
ResNet-20 under a budget of 60% of the time, by `uniform` and by the default search, which keeps to what the original
computes. What is stored is of the machine that ran it: its processor is named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bench.mobilenet import mobilenet_v3_large
from bench.zoo.cifar import cifar_resnet
from pagcp_cli import compile_spec
from pagcp_cli.benching import bench
from specs.diagnostics import PassError
from specs.spec import Spec

RESULTS = Path(__file__).parent / "results" / "latency.json"
MACS, TIME = "40%", "60%"


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32, seeded."""
    torch.manual_seed(0)
    return cifar_resnet(20).eval()


def mobilenet() -> nn.Module:
    """MobileNetV3-Large for 224x224, seeded."""
    torch.manual_seed(0)
    return mobilenet_v3_large().eval()


class _Imitated(Dataset[tuple[Tensor, Tensor]]):
    """Random images, and what the network itself makes of them: the loss is how far a cut one strays."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._images = torch.randn(count, 3, 32, 32, generator=generator)
        with torch.no_grad():
            # a loss of 0 has no relative rise
            outputs = resnet20()(self._images)
            self._targets = outputs + 0.1 * outputs.std() * torch.randn(outputs.shape, generator=generator)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._images[index], self._targets[index]


def imitated() -> dict[str, Dataset[tuple[Tensor, Tensor]]]:
    """The splits of a spec."""
    return {name: _Imitated(128, seed) for seed, name in enumerate(("calibration", "train", "validation"))}


NETS: Mapping[str, tuple[Callable[[], nn.Module], int]] = {"resnet20": (resnet20, 32), "mobilenet": (mobilenet, 224)}


def main() -> int:
    """0 when all was measured, and budgets were met or refused."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency")
    parser.add_argument("--only", nargs="+", choices=["macs", "budgets"], default=["macs", "budgets"])
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--json", action="store_true", help="print what is stored")
    given = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found: dict[str, Any] = {
        "machine": _machine(),
        "macs": stored.get("macs", {}),
        "budgets": stored.get("budgets", {}),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for net in given.nets if "macs" in given.only else ():
            found["macs"][net] = _cut(net, folder / net)
            _store(found)
        if "budgets" in given.only:
            found["budgets"] = _budgets(folder)
            _store(found)
    print(json.dumps(found, indent=1) if given.json else _table(found))
    return 0


def _store(found: Mapping[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    wide = any("avx512f" in line for line in lines if line.startswith("flags"))
    load = round(os.getloadavg()[0], 1)
    return {"cpu": (names or [platform.machine()])[0], "avx512": wide, "cores": os.cpu_count(), "load": load}


def _spec(net: str, passes: Any, budgets: Mapping[str, Any], export: Any = ("onnx",), **more: Any) -> Spec:
    size = NETS[net][1]
    model = {"factory": f"bench.latency:{net}", "inputs": [[1, 3, size, size]]}
    told = {"version": 1, "model": model, "budgets": budgets, "passes": passes, "export": list(export), **more}
    return Spec.model_validate(told)


def _cut(net: str, folder: Path) -> dict[str, Any]:
    """Both cuts of a network, in turns with the original."""
    dense = _dense(net, folder / "dense")
    rows = {}
    for multiple in (1, 8):
        out = folder / f"by{multiple}"
        result = compile_spec(_spec(net, [{"uniform": {"round_to": multiple}}], {"macs": MACS}), out)
        size = NETS[net][1]
        raced = bench([dense, out / "model.onnx"], batches=(1, 16), shapes={"0": (1, 3, size, size)})
        kept = result.plan.after.macs / result.plan.before.macs
        rows[f"round_to {multiple}"] = {
            "macs kept": round(kept, 4),
            **{f"batch {row.batch}": _ratio(rows_of) for rows_of in _pairs(raced.rows) for row in rows_of[:1]},
            "layers": len(raced.layers),
            "stuck": sum(layer.stuck for layer in raced.layers),
        }
    return rows


def _dense(net: str, folder: Path) -> Path:
    from pagcp_ir.emit import EXPORTERS, About
    from pagcp_ir.program import TensorSpec
    from pagcp_ir.trace import trace

    build, size = NETS[net]
    folder.mkdir(parents=True)
    EXPORTERS["onnx"](trace(build(), [TensorSpec((1, 3, size, size))]), folder, About(net))
    return folder / "model.onnx"


def _pairs(rows: Any) -> list[Any]:
    return [rows[n : n + 2] for n in range(0, len(rows), 2)]


def _ratio(pair: Any) -> dict[str, float]:
    dense, cut = pair
    return {
        "before ms": round(dense.ms.median, 4),
        "after ms": round(cut.ms.median, 4),
        "ratio": round(cut.ratio.median, 4),
        "low": round(cut.ratio.low, 4),
        "high": round(cut.ratio.high, 4),
        "speed-up": round(1 / cut.ratio.median, 2),
    }


def _budgets(folder: Path) -> dict[str, Any]:
    """ResNet-20 under a budget on the time, by each search."""
    data = {"data": {"factory": "bench.latency:imitated"}, "tasks": [{"name": "same", "loss": "mse_loss"}]}
    passes: dict[str, tuple[Any, dict[str, Any]]] = {
        "uniform": ([{"uniform": {}}], {}),
        "pagcp": ([{"pagcp": {"criterion": "l1"}}], data),
    }
    rows = {}
    for name, (steps, more) in passes.items():
        began = time.perf_counter()
        try:
            result = compile_spec(_spec("resnet20", steps, {"latency": TIME}, (), **more), folder / f"budget-{name}")
        except PassError as error:
            rows[name] = {"refused": error.diagnostics[0].message}
            continue
        found = result.latency
        assert found is not None
        kept = result.plan.after.macs / result.plan.before.macs
        rows[name] = {**found.to_dict(), "macs kept": round(kept, 4), "seconds": round(time.perf_counter() - began, 1)}
    return rows


def _table(found: Mapping[str, Any]) -> str:
    lines = [f"{found['machine']}", "", "network    widths       MACs kept   batch 1              batch 16       stuck"]
    for net, rows in found["macs"].items():
        for name, row in rows.items():
            told = [f"{row[b]['ratio']:.3f} ({row[b]['speed-up']:.2f}x)" for b in ("batch 1", "batch 16")]
            stuck = f"{row['stuck']} of {row['layers']}"
            lines.append(f"{net:10} {name:12} {row['macs kept']:8.1%}   {told[0]:18}   {told[1]:18} {stuck}")
    lines.append("")
    for name, row in found["budgets"].items():
        told = (
            row.get("refused") or f"{row['after']:.3g} of {row['before']:.3g} ms, {row['ratio']:.1%}, met {row['met']}"
        )
        lines.append(f"{TIME} of the time, {name}: {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
