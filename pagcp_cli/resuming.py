"""A run that can be gone on with: its folder, its journal, its checkpoints, and what it must be the same run of.

The first record of a journal, `start`, says which spec, network, calibration data, code and versions its answers are
of; a run goes on only with answers of its own. What is exported does not count: no answer depends on it.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from pagcp_cli.data_identity import data_identity, digest, said
from pagcp_cli.folder import Stage, staged
from pagcp_cli.storage import storing
from pagcp_cli.sums import seal
from pagcp_ir.planning import fingerprint
from pagcp_ir.program import Program
from passes.blame import out_of_memory
from passes.data import Batch, Splits
from passes.feeding import memory_ran_out
from passes.journal import Journal
from passes.processes import agreed, is_main
from passes.resume import Checkpoints
from specs.diagnostics import DataError, EmitError, PagcpError, SpecError
from specs.lock import resolved
from specs.spec import Spec

__all__ = ["Run", "opened"]

_MAY_PASS = (DataError, EmitError, SpecError)
"""Expected failures after which the same run may still end well: the user's code or data, the place to write to."""


@dataclass(frozen=True)
class Run:
    """What a run writes to, and goes on from; without a stage it does neither, as one of several processes."""

    stage: Stage | None
    journal: Journal
    checkpoints: Checkpoints

    def begin(self, spec: Spec, program: Program, batches: Sequence[Batch], data: Splits | None = None) -> bool:
        """Say what the run is of, or see that it is the same, and whether it is gone on with.

        SpecError S120 when it is another one.
        """
        own = _identity(spec, program, batches, data)
        for what in ("network", "calibration"):
            agreed(f"the {what}", own[what])
        found = self.journal.identity
        if found is None and self.journal.known:
            message = "the interrupted run has answers, and does not say of what"
            raise SpecError.one("S120", message, hint="--force without --resume starts anew")
        if found is None:
            self.journal.write("start", **own)
            return False
        other = [key for key, value in own.items() if key != "resolved" and found.get(key) != value]
        if other:
            message = f"the interrupted run is {_told(other[0], found, own)}"
            raise SpecError.one("S120", message, hint="--force without --resume starts anew")
        self.journal.write("resumed", answers=self.journal.known)
        return True


@contextmanager
def opened(out: Path, force: bool, resume: bool) -> Iterator[Run]:
    """The run that ends with a result in `out`. What it found is kept when it ends in another way that may pass."""
    if not is_main():  # the first process writes for all
        yield Run(None, Journal(), Checkpoints())
        return
    with storing(out), staged(out, force, resume) as stage:
        stage.keep = resume  # a journal that is damaged is the user's to mend
        with Journal(stage.journal, stage.rows) as journal:
            stage.keep = False
            try:
                yield Run(stage, journal, Checkpoints(stage.checkpoints))
            except PagcpError as error:
                stage.keep = journal.worked and isinstance(error, _MAY_PASS)
                raise
            except (RuntimeError, MemoryError) as error:
                stage.keep = journal.worked
                if out_of_memory(error):
                    raise memory_ran_out("the work on a batch or on the network") from error
                raise
            except BaseException:
                stage.keep = journal.worked
                raise
            stage.keep = journal.worked  # until it is published
        seal(stage.result)


def _identity(spec: Spec, program: Program, batches: Sequence[Batch], data: Splits | None) -> dict[str, Any]:
    """What a run has in common with one that it goes on with. `resolved` is there to say what differs."""
    whole = {key: value for key, value in resolved(spec, spec.path, ()).items() if key != "export"}
    return {
        "spec": digest([json.dumps(whole, sort_keys=True, default=str).encode()]),
        "network": fingerprint(program),
        "calibration": digest(said(leaf) for b in batches for leaf in pytree.tree_leaves((b.inputs, b.target))),
        "data": {} if data is None else data_identity(data),
        "versions": {"pagcp": version("pagcp"), "python": platform.python_version(), "torch": str(torch.__version__)},
        "code": _code(spec.path),
        "resolved": spec.resolved(),
    }


def _code(spec: Path | None) -> dict[str, str]:
    """By name: digests of the modules beside the spec and below that were imported, with the losses and metrics."""
    if spec is None:
        return {}
    folder, found = spec.resolve().parent, {}
    for name, module in sorted(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        if file.suffix == ".py" and file.is_relative_to(folder) and "site-packages" not in file.parts:
            found[name] = digest([file.read_bytes()])
    return found


def _told(key: str, found: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """In which way the run that was found is another one."""
    if key == "spec":
        return f"of another spec: {_difference(found.get('resolved'), json.loads(json.dumps(own['resolved'])))}"
    if key == "versions":
        old, new = (", ".join(f"{name} {each}" for name, each in part[key].items()) for part in (found, own))
        return f"of other versions: {old}; here are {new}"
    if key == "code":
        was, now = (part.get("code") or {} for part in (found, own))
        changed = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
        return f"of other code: {', '.join(changed)}"
    if key == "data":
        was, now = (part.get("data") or {} for part in (found, own))
        changed = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
        return f"on other data: {' and '.join(changed)}"
    return {
        "network": "of another network: its tensors or its code changed",
        "calibration": "on other calibration data",
    }[key]


def _difference(old: Any, new: Any, at: str = "") -> str:
    """The first place at which two specs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (left, right) in enumerate(zip(old, new, strict=True)):
            if left != right:
                return _difference(left, right, f"{at}[{index}]")
    return f"{at} was {_short(old)}, is {_short(new)}" if at else "a value of the environment changed"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
