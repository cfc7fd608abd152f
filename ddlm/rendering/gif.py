"""GIF files: one palette for a whole film, delays that are kept, nothing written twice."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

NUM_COLOURS = 255
SAME = 255
"""The index that no colour has: it means "as in the picture before"."""
NUM_EXACT = 96
"""The most frequent colours are kept as they are; the others share the remaining places."""
NUM_PICTURES = 8
"""So many pictures, spread over the film, decide the palette."""
HEADER = b"GIF89a"
ENDLESS = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
END = b"\x3b"


class Palette:
    """The colours of a film. Beyond the most frequent, a colour counts once: by area, rare accents would be lost."""

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        chosen = sorted({round((len(pictures) - 1) * part / (NUM_PICTURES - 1)) for part in range(NUM_PICTURES)})
        codes, counts = np.unique(np.concatenate([pack(pictures[index]) for index in chosen]), return_counts=True)
        codes = codes[np.argsort(-counts, kind="stable")]
        self.colours = unpack(codes)
        if len(codes) > NUM_COLOURS:
            self.colours = np.concatenate([unpack(codes[:NUM_EXACT]), merge(unpack(codes[NUM_EXACT:]))])
        self._index_of = np.full(1 << 24, SAME, np.uint8)
        self._index_of[pack(self.colours)] = np.arange(len(self.colours))

    def indexes(self, codes: np.ndarray) -> np.ndarray:
        """The place of the nearest colour for each pixel. No dithering: it would make every pixel move."""
        found = self._index_of[codes]
        if (found == SAME).any():
            unknown = np.unique(codes[found == SAME])
            self._index_of[unknown] = nearest(unpack(unknown), self.colours)
            found = self._index_of[codes]
        return np.asarray(found)

    def table(self) -> bytes:
        """256 colours, as the file wants them."""
        return self.colours.tobytes().ljust(3 * 256, b"\0")


def merge(colours: np.ndarray) -> np.ndarray:
    """As many colours as the palette has left, close to all of these."""
    strip = Image.fromarray(colours[None])
    merged = strip.quantize(NUM_COLOURS - NUM_EXACT, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    return np.array(merged.getpalette(), np.uint8).reshape(-1, 3)


def nearest(wanted: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """By squares: |w|² does not matter, and -2 w·c + |c|² is one product of matrices."""
    table = colours.astype(np.float32)
    distances = (table**2).sum(1) - 2 * wanted.astype(np.float32) @ table.T
    indexes: np.ndarray = distances.argmin(1)
    return indexes


def pack(pixels: Image.Image | np.ndarray) -> np.ndarray:
    """The pixels as one number each, 0xBBGGRR, in their shape."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels[None])
    words = np.asarray(image.convert("RGBX")).view(np.uint32)[..., 0] & 0xFFFFFF
    return words if isinstance(pixels, Image.Image) else words[0]


def unpack(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes & 255, codes >> 8 & 255, codes >> 16], axis=-1).astype(np.uint8)


def write_gif(pictures: Sequence[Image.Image], path: Path, durations_ms: Sequence[int]) -> None:
    """Each picture for its time, over and over. The file's unit is 10 ms."""
    palette, size = Palette(pictures), pictures[0].size
    with path.open("wb") as file:
        screen = b"".join(side.to_bytes(2, "little") for side in size) + b"\xf7\x00\x00"
        file.write(HEADER + screen + palette.table() + ENDLESS)
        for (place, pixels), ms in zip(changes(pictures, palette), durations_ms, strict=True):
            image = Image.fromarray(pixels)
            for block in GifImagePlugin.getdata(image, place, duration=ms, transparency=SAME, disposal=1):
                file.write(block)
        file.write(END)


def changes(pictures: Sequence[Image.Image], palette: Palette) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Of each picture the rectangle that differs from the one before: its corner, and its pixels as indexes."""
    codes = shown = None
    for picture in pictures:
        now = pack(picture)
        if codes is None or shown is None:
            codes, shown = now, palette.indexes(now)
            yield (0, 0), shown
            continue
        rows, columns = touched(codes != now)
        found = palette.indexes(now[rows, columns])
        yield (columns.start, rows.start), np.where(found == shown[rows, columns], np.uint8(SAME), found)
        shown[rows, columns] = found
        codes = now


def touched(differs: np.ndarray) -> tuple[slice, slice]:
    """The smallest rectangle around all that differs; where nothing does, one pixel."""
    rows, columns = (np.flatnonzero(differs.any(axis)) for axis in (1, 0))
    if not len(rows):
        return slice(0, 1), slice(0, 1)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
