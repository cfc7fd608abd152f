"""GIF files: one palette for a whole film, delays that are kept, nothing written twice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

NUM_COLOURS = 255
"""One index of 256 stays free: it means "as in the picture before"."""
NUM_EXACT = 96
"""The most frequent colours are kept as they are; the others share the remaining places."""
NUM_PICTURES = 8
"""So many pictures, spread over the film, decide the palette."""


class Palette:
    """The colours of a film. Beyond the most frequent, a colour counts once: by area, rare accents would be lost."""

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        chosen = sorted({round((len(pictures) - 1) * part / (NUM_PICTURES - 1)) for part in range(NUM_PICTURES)})
        codes, counts = np.unique(np.concatenate([pack(pictures[index]) for index in chosen]), return_counts=True)
        codes = codes[np.argsort(-counts, kind="stable")]
        self.colours = unpack(codes)
        if len(codes) > NUM_COLOURS:
            self.colours = np.concatenate([unpack(codes[:NUM_EXACT]), merge(unpack(codes[NUM_EXACT:]))])
        self._index_of = np.full(1 << 24, -1, np.int16)

    def apply(self, picture: Image.Image) -> Image.Image:
        """The picture in these colours, each pixel the nearest one. No dithering: it would make every pixel move."""
        codes = pack(picture)
        unknown = np.unique(codes[self._index_of[codes] < 0])
        self._index_of[unknown] = nearest(unpack(unknown), self.colours)
        indexes = self._index_of[codes].astype(np.uint8)
        image = Image.fromarray(indexes.reshape(picture.height, picture.width))
        image.putpalette(self.colours.tobytes())
        return image


def merge(colours: np.ndarray) -> np.ndarray:
    """As many colours as the palette has left, close to all of these."""
    strip = Image.fromarray(colours[None])
    merged = strip.quantize(NUM_COLOURS - NUM_EXACT, Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    return np.array(merged.getpalette(), np.uint8).reshape(-1, 3)


def nearest(wanted: np.ndarray, colours: np.ndarray) -> np.ndarray:
    squares = (wanted[:, None].astype(np.int32) - colours[None].astype(np.int32)) ** 2
    indexes: np.ndarray = squares.sum(-1).argmin(1)
    return indexes


def pack(picture: Image.Image) -> np.ndarray:
    """The pixels as one number each, 0xRRGGBB."""
    red, green, blue = np.asarray(picture).reshape(-1, 3).astype(np.uint32).T
    return red << 16 | green << 8 | blue


def unpack(codes: np.ndarray) -> np.ndarray:
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)


def write_gif(pictures: Sequence[Image.Image], path: Path, *, frame_ms: int, hold_s: float) -> None:
    """Each picture for `frame_ms`, the last for `hold_s`, over and over. The file's unit is 10 ms."""
    palette = Palette(pictures)
    first, *rest = (palette.apply(picture) for picture in pictures)
    hold_ms = max(frame_ms, round(hold_s * 100) * 10)
    durations = [frame_ms] * len(rest) + [hold_ms]
    # `optimize` writes only the pixels that change: a third to a sixth of the bytes.
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=True)
