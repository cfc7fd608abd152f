"""Animated PNG files, of the palette and the changes of which GIFs are made."""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ddlm.rendering.gif import SAME, Palette, changes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
WITH_PALETTE = (8, 3, 0, 0, 0)
"""Eight bits a pixel, an index into a palette; then the only compression, filter and order of rows that we use."""
STAYS, OVER = 0, 1
"""A picture is left as it is, and the next one is laid over it."""


def write_apng(pictures: Sequence[Image.Image], path: Path, durations_ms: Sequence[int]) -> None:
    """Each picture for its time, over and over."""
    palette, number = Palette(pictures), 0
    with path.open("wb") as file:
        file.write(SIGNATURE)
        _chunk(file, b"IHDR", struct.pack(">II5B", *pictures[0].size, *WITH_PALETTE))
        _chunk(file, b"acTL", struct.pack(">II", len(durations_ms), 0))
        _chunk(file, b"PLTE", palette.table())
        _chunk(file, b"tRNS", b"\xff" * SAME + b"\x00")
        for ((left, top), pixels), ms in zip(changes(pictures, palette), durations_ms, strict=True):
            height, width = pixels.shape
            place = (number, width, height, left, top, ms, 1000, STAYS, OVER)
            _chunk(file, b"fcTL", struct.pack(">IIIIIHHBB", *place))
            data = zlib.compress(np.pad(pixels, ((0, 0), (1, 0))).tobytes(), 9)  # each row behind its filter: none
            if number:
                _chunk(file, b"fdAT", struct.pack(">I", number + 1) + data)
            else:
                _chunk(file, b"IDAT", data)
            number += 2 if number else 1
        _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
