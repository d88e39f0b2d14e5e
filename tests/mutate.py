"""Mutations of valid files: what a disk, an editor or someone who means harm makes of them."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from typing import Any

__all__ = ["mutated_bytes", "mutated_json", "mutated_text", "mutated_zip"]

_TOKENS = (
    b"[" * 20_000, b"{" * 3000, b'{"a":' * 3000, b"- " * 2000, b"9" * 6000, b"1e999", b"-1", b"NaN",
    b"Infinity", b"null", b"true", b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r",
    b"\t", b'"', b"'", b"#", b"---\n", b"...",
    b"!!python/object/apply:os.system ['true']", b"&a [*a, *a]", b"*nowhere", b"<<: *a", b"%YAML 9.9\n", b"? ", b"|",
    b"../../../../etc/passwd", b"/dev/zero", b"${env:HOME}", b"${env:}", b"\\ud800", b"\\U00110000",
    b"18446744073709551616",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**53, 2**63, 10**30, 1.5, "", "x", "../../x", "/etc/passwd", "\ud800", "\0", [], {},
    [[]], [[0, 2**40]], [[1, 0]], [0] * 1000, {"": None}, "nan", "9" * 400,
)  # fmt: skip
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c, *%c]\n" % (c, c, *(c - 1,) * 9) for c in range(98, 108)
)


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    """Any file: cut off, bits flipped, parts doubled, dropped, swapped or overwritten, sizes blown up."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = _mutated(data, draw)
    return data


def mutated_text(data: bytes, draw: random.Random) -> bytes:
    """Text: lines doubled, dropped, indented or swapped, values exchanged, and what bytes allow."""
    if draw.random() < 0.4:
        return mutated_bytes(data, draw)
    if draw.random() < 0.02:
        return BOMB + data
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        kind = draw.randrange(6)
        if kind == 0:
            lines.insert(at, lines[other])
        elif kind == 1:
            lines[at] = b""
        elif kind == 2:
            lines[at] = b" " * draw.randrange(9) + lines[at].lstrip()
        elif kind == 3:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 4:
            key, colon, _ = lines[at].partition(b":")
            lines[at] = key + (colon or b":") + b" " + json.dumps(draw.choice(_VALUES)).encode()
        else:
            words = lines[at].split(b" ")
            words[draw.randrange(len(words))] = draw.choice(_TOKENS)
            lines[at] = b" ".join(words)
    return b"\n".join(lines)


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    """JSON, or lines of it: values, keys and types exchanged in the tree, and what text allows."""
    if draw.random() < 0.4:
        return mutated_text(data, draw)
    lines = data.split(b"\n") if data.count(b'\n{"kind"') else [data]
    full = [n for n, line in enumerate(lines) if line.strip()]
    at = draw.choice(full)
    tree = json.loads(lines[at])
    for _ in range(draw.choice((1, 1, 2))):
        tree = _changed(tree, draw)
    lines[at] = json.dumps(tree).encode()
    return b"\n".join(lines)


def mutated_zip(data: bytes, draw: random.Random) -> bytes:
    """An archive: a member exchanged, renamed, dropped or doubled, with sums that fit; and what bytes allow."""
    if draw.random() < 0.3:
        return mutated_bytes(data, draw)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
        at = draw.randrange(len(members))
        name, content = members[at]
        kind = draw.randrange(8)
        if kind == 0:
            del members[at]
        elif kind == 1:
            members[at] = draw.choice(("../../x", "/tmp/x", "x" * 300, name + "/x", "")) or name, content
        elif kind == 2:
            members[at] = name, b""
        elif name.endswith(".json") and content[:1] == b"{":
            members[at] = name, mutated_json(content, draw)
        else:
            members[at] = name, mutated_bytes(content, draw) if content else b"x"
        for each, text in members:
            new.writestr(zipfile.ZipInfo(each), text)
    return made.getvalue()


def _mutated(data: bytes, draw: random.Random) -> bytes:
    size = max(1, len(data))
    at, other = draw.randrange(size), draw.randrange(size)
    kind = draw.randrange(9)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[at:]
    if kind == 2:  # a few bits
        changed = bytearray(data)
        for _ in range(draw.choice((1, 2, 8))):
            if changed:
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == 3:
        return data[:at] + data[min(at, other) : max(at, other)] + data[at:]
    if kind == 4:
        return data[: min(at, other)] + data[max(at, other) :]
    if kind == 5:
        return data[:at] + draw.choice(_TOKENS) + data[at:]
    if kind == 6:
        return data[:at] + bytes(draw.randrange(256) for _ in range(8)) + data[at + 8 :]
    if kind == 7:  # a size of eight bytes, as safetensors begins with
        return struct.pack("<Q", draw.choice((0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1))) + data[8:]
    number = draw.choice((b"1", b"4", b"16", b"[4", b"0"))
    return data.replace(number, draw.choice((b"99999999999", b"-1", b"1073741824", b"0")), draw.choice((1, 2, 9)))


def _changed(tree: Any, draw: random.Random) -> Any:
    """One node of the tree is another value, or lacks, doubles or renames a key."""
    if isinstance(tree, dict) and tree and draw.random() < 0.9:
        key = draw.choice(sorted(tree))
        kind = draw.randrange(8)
        if kind == 0:
            return {k: v for k, v in tree.items() if k != key}
        if kind == 1:
            return {**tree, draw.choice(("x", "", "\ud800", key.upper(), "0")): tree[key]}
        return {**tree, key: _changed(tree[key], draw)}
    if isinstance(tree, list) and tree and draw.random() < 0.9:
        at = draw.randrange(len(tree))
        if draw.random() < 0.2:
            return tree[:at] + [tree[at]] * draw.choice((2, 50)) + tree[at:]
        return [*tree[:at], _changed(tree[at], draw), *tree[at + 1 :]]
    return draw.choice(_VALUES)
