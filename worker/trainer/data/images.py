"""Images as pixel tensors, through PIL: decoded once and kept while they fit a memory budget, else per batch."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from app.files import formats
from app.files.problems import LineProblem, first_line
from worker.trainer.data.batch import Batch
from worker.trainer.data.sampler import Positions

KEPT_BYTES = 2 << 30
MAX_PIXELS = 64_000_000
#: Formats that are read. Some others that PIL knows run programs (EPS), or draw fonts and vectors.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What PIL raises over a damaged file: plain Python errors too, and a class of its own for decompression bombs.
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
    Warning,
    Image.DecompressionBombError,
)


class ImageExamples:
    """Images with a class each. `input_name` is the model's argument: `pixel_values`, or `x` in a torch model."""

    lengths = None

    def __init__(self, images: Sequence[bytes], labels: Sequence[int], *, pixels: Pixels, input_name: str) -> None:
        self.images = images
        self.labels = labels
        self.pixels = pixels
        self.input_name = input_name
        self._kept: dict[int, Tensor] = {}
        self._keep = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, positions: Positions) -> Batch:
        stacked = torch.stack([self._pixels(int(at)) for at in positions])
        targets = torch.tensor([self.labels[at] for at in positions], dtype=torch.int64)
        count = len(positions)
        return Batch({self.input_name: stacked}, targets, weight=count, examples=count, rows=positions)

    def check(self, *, lines: Sequence[int], param: str) -> None:
        """Decodes every image once. DataError lists those that cannot be read, or differ in size from the first."""
        problems = []
        shape = None
        for at, line in enumerate(lines):
            try:
                size = tuple(self._pixels(at).shape)
            except UNREADABLE as error:
                problems.append(LineProblem(line, "image", "corrupt_image", f"'image' is damaged: {first_line(error)}"))
                continue
            shape = shape or size
            if size != shape:
                message = f"'image' has {_size(size)} pixels, and those above have {_size(shape)}; resize them"
                problems.append(LineProblem(line, "image", "other_size", message))
        if problems:
            raise formats.refusal(problems, param=param)

    def _pixels(self, at: int) -> Tensor:
        if at in self._kept:
            return self._kept[at]
        pixels = self.pixels(decode(self.images[at]))
        size = pixels.numel() * pixels.element_size()
        if size <= self._keep:
            self._keep -= size
            self._kept[at] = pixels
        return pixels


class Pixels:
    """Turns one decoded image into a float tensor (channels, height, width)."""

    def __init__(self, *, processor: Any = None, channels: int = 3) -> None:
        self.processor = processor
        self.mode = "L" if channels == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Tensor:
        image = eight_bit(image).convert(self.mode)
        if self.processor is not None:
            pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
            return pixels
        array = np.asarray(image, dtype=np.float32) / 255.0
        return torch.from_numpy(array[None] if self.mode == "L" else array.transpose(2, 0, 1).copy())


def encode(
    rows: Sequence[Mapping[str, Any]], *, pixels: Pixels, input_name: str, lines: Sequence[int], param: str
) -> ImageExamples:
    """Encodes rows {"image": bytes, "label": index}; `lines` has the line of each in its file."""
    examples = ImageExamples(
        [row["image"] for row in rows], [row["label"] for row in rows], pixels=pixels, input_name=input_name
    )
    examples.check(lines=lines, param=param)
    return examples


def decode(data: bytes) -> Image.Image:
    """The picture, upright as its EXIF orientation says. ValueError for more than `MAX_PIXELS`, before unpacking."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PIL only warns of a decompression bomb and of damaged metadata
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} by {image.height} pixels are more than {MAX_PIXELS}")
            image.verify()  # checksums, which load() skips once it has every pixel; the image cannot be used afterwards
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image)


def eight_bit(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits or of floats, scaled to 8 bits, where PIL's own conversion would clip at 255.

    16 bits are 0 to 65535, floats 0 to 1. ValueError for values beyond that, whose scale is not known.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image

    values = np.asarray(image, dtype=np.float64)
    largest = 1.0 if image.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= largest):  # also where one is not a number
        raise ValueError(
            f"its grey values are {low:g} to {high:g}, and pictures of mode {image.mode} are read as 0 to {largest:g}; "
            "save it with 8 bits"
        )
    return Image.fromarray(np.rint(values * (255.0 / largest)).astype(np.uint8))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} by {shape[1]}"
