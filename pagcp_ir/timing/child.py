"""A process that holds one network and runs it whenever it is told to: JSON lines in and out.

In: the job, then numbers of runs. Out: {"ready"}, a list of milliseconds for each number, {"peak"} at the end; or
{"error"} when something fails. It is run as a file and imports nothing of pagcp: its memory is the network's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Run = Callable[[], Any]
WARM_RUNS, WARM_SECONDS = 3, 0.2


def main() -> None:
    """Serve until stdin ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the network prints is no answer
    for answer in _answers():
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _answers() -> Iterator[Any]:
    try:
        job = json.loads(sys.stdin.readline())
        run = {"onnxruntime": _onnx, "torch": _torch}[job["backend"]](job)
        began, runs = time.perf_counter(), 0
        while runs < WARM_RUNS or time.perf_counter() - began < WARM_SECONDS:
            run()
            runs += 1
        yield {"ready": 1e3 * _seconds(run)}
        for line in sys.stdin:
            yield [1e3 * _seconds(run) for _ in range(int(line))]
        yield {"peak": _peak()}
    except Exception as error:  # noqa: BLE001 (a network of any origin: what it raises is told to the other side)
        yield {"error": (str(error).strip().splitlines() or [""])[0] or type(error).__name__}


def _seconds(run: Run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _onnx(job: dict[str, Any]) -> Run:
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job["threads"], 1
    options.log_severity_level = 3
    session = ort.InferenceSession(job["path"], options, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    feed = {}
    for given in job["inputs"]:
        kind = np.dtype(given["dtype"])
        float_ = kind.kind == "f"
        value = draw.standard_normal(given["shape"]) if float_ else draw.integers(0, 2, given["shape"])
        feed[given["name"]] = value.astype(kind)
    return lambda: session.run(None, feed)


def _torch(job: dict[str, Any]) -> Run:
    import torch

    torch.set_num_threads(job["threads"])
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    inputs = []
    for given in job["inputs"]:
        kind = getattr(torch, given["dtype"])
        shape = given["shape"]
        inputs.append(torch.randn(shape).to(kind) if kind.is_floating_point else torch.randint(0, 2, shape).to(kind))
    net = _module(Path(job["path"]))

    def run() -> Any:
        with torch.inference_mode():
            return net(*inputs)

    return run


def _module(path: Path) -> Any:
    if path.suffix == ".pt2":
        import torch

        return torch.export.load(path).module(check_guards=False)
    import importlib.util

    found = importlib.util.spec_from_file_location("model", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["model"] = module
    found.loader.exec_module(module)
    return module.load()


def _peak() -> int:
    """Bytes of memory that this process held at most. What getrusage says counts the parent's before exec, too."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file
    main()
