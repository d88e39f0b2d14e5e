"""An oracle's answers in the journal: what a run had measured when it was killed is read back, and not measured again.

An answer is named by all that it depends on besides the data: the network, the keep-set, what is done to the network
once it is cut (a Finish that has a `key`), and the batches that were looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from pagcp_ir.channels import Keep
from pagcp_ir.planning import fingerprint
from pagcp_ir.program import Program
from passes.journal import Journal, Numbers, Remembered

__all__ = ["Answers"]


class Answers:
    """Answers for one set of tasks on one calibration set."""

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = journal or Journal()
        self._digest: tuple[Program, str] | None = None

    def name(self, program: Program, keep: Keep, finish: Any, order: object, first: int, last: int) -> str | None:
        """The name of the answer of batches `first` to before `last` in that order; None where it has none."""
        key = "" if finish is None else getattr(finish, "key", None)
        if key is None or not self._journal.kept:
            return None
        if self._digest is None or self._digest[0] is not program:
            self._digest = program, fingerprint(program)
        said = repr((self._digest[1], keep.tobytes(), key, order, first, last)).encode()
        return blake2b(said, digest_size=12).hexdigest()

    def recall(self, name: str | None) -> Remembered | None:
        """The answer of an earlier run."""
        return None if name is None else self._journal.recall(name)

    def remember(self, name: str | None, fields: Mapping[str, Any], rows: Mapping[str, Numbers]) -> None:
        """Write an answer down."""
        if name is not None:
            self._journal.remember(name, fields, rows)
