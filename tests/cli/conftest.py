"""What the command line's tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forget_user_modules() -> Iterator[None]:
    """Compiles in this process import `net` from another folder each time, and `digits` from where the spec lies."""
    path = list(sys.path)
    _forget()
    yield
    _forget()
    sys.path[:] = path


def _forget() -> None:
    for name in ("net", "digits"):
        sys.modules.pop(name, None)
