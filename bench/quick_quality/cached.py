"""What was made before and need not be made again: files outside the repository, named by what determines them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["folder", "key", "written"]


def folder() -> Path:
    """Where they lie: pagcp-bench in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pagcp-bench"


def key(*parts: Any) -> str:
    """A name for what these values, which JSON can hold, determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def written(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, so that a run that is stopped leaves none in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)
