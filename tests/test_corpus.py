"""Files made to harm, and what fuzzing once found: each is refused, with its name, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz_readers import READERS, judged, seeds

CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(CORPUS)) for path in FILES])
def test_is_refused(path: Path, tmp_path: Path) -> None:
    assert judged(path.parent.name, path.read_bytes(), tmp_path) == ("refused", "")


def test_what_is_valid_is_read(tmp_path: Path) -> None:
    """Or nothing above would mean anything."""
    valid = seeds()
    assert valid.keys() == READERS.keys()
    found = {name: judged(name, data, tmp_path) for name, data in valid.items() if name != "pt2"}
    assert found == dict.fromkeys(found, ("read", ""))
