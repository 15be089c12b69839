"""Images to pixels, on PIL: decoded once and kept while they fit a budget of memory, else decoded per batch."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from app.files import formats
from app.files.lines import LineProblem
from worker.trainer.data.batch import Batch
from worker.trainer.data.sampler import Positions

KEPT_BYTES = 2 << 30
MAX_PIXELS = 64_000_000
#: Of all that PIL knows. Some of the others run programs (EPS), or read fonts and vectors.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What PIL raises over a damaged file: also plain Python errors, and one for bombs that is none of them.
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
    """`input_name` is the model's argument: `pixel_values` in transformers, `x` in a plain torch model."""

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
        """Decode every image once. DataError lists those that cannot be, or that have another size than the first."""
        problems = []
        shape = None
        for at, line in enumerate(lines):
            try:
                found = tuple(self._pixels(at).shape)
            except UNREADABLE as error:
                problems.append(LineProblem(line, "image", "corrupt_image", f"'image' is damaged: {str(error)[:150]}"))
                continue
            shape = shape or found
            if found != shape:
                message = f"'image' has {_size(found)} pixels, and those above have {_size(shape)}; resize them"
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
    """One decoded image to a float tensor (channels, height, width)."""

    def __init__(self, *, processor: Any = None, channels: int = 3) -> None:
        self.processor = processor
        self.mode = "L" if channels == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Tensor:
        image = image.convert(self.mode)
        if self.processor is not None:
            pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
            return pixels
        array = np.asarray(image, dtype=np.float32) / 255.0
        return torch.from_numpy(array[None] if self.mode == "L" else array.transpose(2, 0, 1).copy())


def encode(
    rows: Sequence[Mapping[str, Any]], *, pixels: Pixels, input_name: str, lines: Sequence[int], param: str
) -> ImageExamples:
    """Rows {"image": bytes, "label": index}, and the line of each."""
    examples = ImageExamples(
        [row["image"] for row in rows], [row["label"] for row in rows], pixels=pixels, input_name=input_name
    )
    examples.check(lines=lines, param=param)
    return examples


def decode(data: bytes) -> Image.Image:
    """The picture, read whole. Files that claim more than `MAX_PIXELS` are refused before they are unpacked."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a decompression bomb is a warning first, damaged metadata too
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} by {image.height} pixels are more than {MAX_PIXELS}")
            image.verify()  # checksums, which loading passes over once it has every pixel; the file is spent by it
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            return image.copy()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} by {shape[1]}"
