"""torch.export without its progress and advice: errors are exceptions, of which the root's first line is the reason."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

__all__ = ["quiet", "reason_of"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' progress and deprecation notices; errors are exceptions and pass through."""
    before = logging.root.manager.disable
    unread = io.StringIO()  # a failed export prints its whole graph
    with warnings.catch_warnings(), redirect_stdout(unread), redirect_stderr(unread):
        warnings.simplefilter("ignore")
        try:
            logging.disable(logging.WARNING)  # of all loggers: torch sets the levels of its own anew as it is imported
            yield
        finally:
            logging.disable(before)


def reason_of(error: Exception) -> str:
    """Type and first line of the exception at the root: the exporters wrap it in pages of advice."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0]}" if lines else type(root).__name__
