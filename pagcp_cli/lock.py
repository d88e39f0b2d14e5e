"""spec.lock.yaml: the spec fully resolved, with the versions and the weights that it was compiled with.

It says the same on every machine: no path of the machine, no time.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import torch

from pagcp_cli.network import weights_file
from pagcp_cli.weights import sha256
from specs.lock import portable, yaml_text
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
        "overrides": [_portable(override, spec) for override in spec.overrides],
        "spec": spec.resolved(),
    }
    return yaml_text(locked)


def _portable(override: str, spec: Spec) -> str:
    key, _, value = override.partition("=")
    return f"{key}={portable(value, spec.path)}"
