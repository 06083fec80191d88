"""Damage to a pickle, one whole instruction at a time, so that what lies behind its syntax is reached."""

from __future__ import annotations

import pickletools
import random

INSTRUCTIONS = (
    b"N", b"\x88", b"\x89", b"]", b"}", b")", b"(", b"0", b"1", b"2", b"R", b"b", b"\x81", b"\x85", b"\x86", b"\x87",
    b"t", b"a", b"e", b"s", b"u", b"Q", b".", b"\x93", b"\x94", b"\x8f", b"\x90", b"\x91", b"\x92", b"o",
    b"K\x00", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 8 + b"\x7f",
    b"G" + b"\x7f\xf8" + b"\0" * 6, b"h\x00", b"h\x05", b"q\x00", b"q\x05", b"C\x01a", b"X\x01\x00\x00\x00a",
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ctorch\nFloatStorage\n", b"ctorch\nTensor\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ccollections\nOrderedDict\n",
    b"ctorch_geometric.nn.conv.gcn_conv\nGCNConv\n", b"ctorch_geometric.nn.sequential\nSequential\n",
    b"ctorch.nn.modules.rnn\nLSTM\n", b"ctorch.nn.modules.container\nModuleList\n", b"ctorch\nSize\n",
    b"cbuiltins\nset\n",
    b"X\x07\x00\x00\x00forward", b"X\x09\x00\x00\x00__class__", b"X\x08\x00\x00\x00_modules", b"X\x01\x00\x00\x000",
    b"X\x0b\x00\x00\x00_parameters", b"X\x09\x00\x00\x00inspector", b"X\x09\x00\x00\x00_children",
)  # fmt: skip
"""One of each kind that matters, and the names whose values the loader relies on."""


def damage_pickle(content: bytes, chance: random.Random) -> bytes:
    """Drop, repeat, exchange or replace instructions; a pickle that is broken already comes back as it is."""
    try:
        starts = [position for _, _, position in pickletools.genops(content)]
    except Exception:
        return content
    ends = [*starts[1:], len(content)]
    parts = [content[start:end] for start, end in zip(starts, ends, strict=True)]
    for _ in range(chance.choice((1, 1, 2, 3))):
        place, other = (chance.randrange(len(parts)) for _ in range(2))
        way = chance.randrange(6)
        if way == 0:
            parts[place] = b""
        elif way == 1:
            parts[place] *= chance.choice((2, 2, 300))
        elif way == 2:
            parts[place], parts[other] = parts[other], parts[place]
        elif way == 3:
            parts[place] = parts[other]
        else:
            parts[place] = chance.choice(INSTRUCTIONS) + (parts[place] if way == 4 else b"")
    return b"".join(parts)
