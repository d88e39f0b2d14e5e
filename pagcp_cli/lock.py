"""spec.lock.yaml: the spec fully resolved, with the versions and the weights that it was compiled with.

It says the same on every machine: no path of the machine, no time.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml

from pagcp_cli.network import weights_file
from pagcp_cli.weights import sha256
from specs.spec import Spec

__all__ = ["lock_text"]


def lock_text(spec: Spec) -> str:
    """The lock as YAML: what the spec resolves to, and what it was resolved with."""
    weights = weights_file(spec)
    locked: dict[str, Any] = {
        "versions": {
            "pagcp": version("pagcp"),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
        },
        "weights": None if weights is None else {"file": weights.name, "sha256": sha256(weights)},
        "spec": _portable(spec),
    }
    return yaml.safe_dump(locked, sort_keys=False, allow_unicode=True)


def _portable(spec: Spec) -> dict[str, Any]:
    """The spec's data with absolute file names reduced to their last component."""
    dumped: dict[str, Any] = spec.model_dump(mode="json")
    for key in ("weights", "program"):
        name = dumped["model"].get(key)
        if name and Path(name).is_absolute():
            dumped["model"][key] = Path(name).name
    return dumped
