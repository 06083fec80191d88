"""Damage to honest files: bytes, blocks, members of zip files, and words of text, all from one seeded generator."""

from __future__ import annotations

import io
import lzma
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence

from tests.pickle_damage import damage_pickle

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**63))
WORDS = (
    b"x", b"y", b"edge_index", b"batch", b"num_graphs", b"node_ptr", b"train_mask", b"os", b"system", b"posix",
    b"builtins", b"eval", b"torch", b"collections", b"__class__", b"__reduce__", b"", b"\xff\xfe", b"a" * 300,
    b"\xc3\xa9", b"nan", b"inf", b"1e999", b"-1", b"0", b"9" * 40, b"null", b"true", b"[[]]", b"{}", b"[" * 2000,
    b"''", b'"', b"\n", b"\x00", b"../..", b"/dev/zero", b"|O", b"<f8", b">i4", b"<U9", b"(1,)", b"()", b"(0, 5)",
)  # fmt: skip
PRINTABLE = re.compile(rb"[ -~]{2,40}")


def mutate(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Damage a file in one to three ways; inside its members where it is a zip file."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if content[:2] == b"PK" and chance.random() < 0.7:
            content = _inside_zip(content, others, chance)
        else:
            content = _damage(content, others, chance)
    return content


def _damage(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    ways = (_flip, _number, _truncate, _swap, _repeat, _drop, _splice, _word, _word)
    return chance.choice(ways)(content, others, chance)


def _inside_zip(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Damage, drop, rename, repeat or exchange members of a zip file, with sums that fit again."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError, struct.error):
        return _damage(content, others, chance)
    if not members:
        return _damage(content, others, chance)
    pickles = [number for number, (name, _) in enumerate(members) if name.endswith(".pkl")]
    place = chance.choice(pickles) if pickles and chance.random() < 0.3 else chance.randrange(len(members))
    name, member = members[place]
    way = chance.random()
    if name.endswith(".pkl") and chance.random() < 0.5:
        members[place] = (name, damage_pickle(member, chance))
    elif way < 0.75:
        members[place] = (name, _damage(member, [held for _, held in members], chance))
    elif way < 0.85:
        members[place] = (name, chance.choice(members)[1])
    elif way < 0.9:
        del members[place]
    elif way < 0.95:
        members.append((name, _damage(member, others, chance)))
    else:
        members[place] = (_word(name.encode(), others, chance).decode("latin-1"), member)
    buffer = io.BytesIO()
    kind = chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", kind) as archive:
        warnings.simplefilter("ignore")
        for name, member in members:
            archive.writestr(name.replace("\0", "_") or "_", member)
    return buffer.getvalue()


def _place(content: bytes, chance: random.Random) -> int:
    # Headers stand in front, tables of contents at the end: both are hit more often than the middle.
    size = len(content)
    near = min(size, 200)
    way = chance.random()
    if way < 0.3:
        return chance.randint(0, near)
    return chance.randint(size - near, size) if way < 0.5 else chance.randint(0, size)


def _flip(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8)) if damaged else 0):
        damaged[min(_place(content, chance), len(damaged) - 1)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _number(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    place = _place(content, chance)
    value, size = chance.choice(NUMBERS), chance.choice((1, 2, 4, 8))
    written = (value % 2 ** (8 * size)).to_bytes(size, chance.choice(("little", "little", "big")))
    return content[:place] + written + content[place + size :]


def _truncate(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    return content[: _place(content, chance)]


def _swap(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    first, second, third = sorted(_place(content, chance) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def _repeat(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    first, second = sorted(_place(content, chance) for _ in range(2))
    return content[:second] + content[first:second][:4096] * chance.choice((1, 1, 20)) + content[second:]


def _drop(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    first = _place(content, chance)
    return content[:first] + content[first + chance.choice((1, 4, 40)) :]


def _splice(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    other = chance.choice(others) if others else content
    return content[: _place(content, chance)] + other[_place(other, chance) :]


def _word(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Put another word in place of a printable one, half the time of the same length."""
    found = list(PRINTABLE.finditer(content))
    if not found:
        return _flip(content, others, chance)
    old = chance.choice(found)
    inner = sorted(chance.randint(old.start(), old.end()) for _ in range(2))
    word = chance.choice((chance.choice(WORDS), chance.choice(found).group(), str(chance.choice(NUMBERS)).encode()))
    start, end = chance.choice(((old.start(), old.end()), (inner[0], inner[1])))
    if chance.random() < 0.5:
        word = word[: end - start].ljust(end - start)
    return content[:start] + word + content[end:]
