"""Images as pixel tensors, through PIL: decoded once and kept while they fit a memory budget, else per batch."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from app.errors import ModelError
from app.files import formats
from app.files.problems import LineProblem, first_line
from worker.trainer.data.batch import Batch, hollow
from worker.trainer.data.rows import Column
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
    """Images with a class each."""

    lengths = None

    def __init__(self, images: Sequence[bytes], labels: Sequence[int], *, pixels: Pixels) -> None:
        self.images = images
        self._targets = torch.tensor(list(labels), dtype=torch.int64)
        self.pixels = pixels
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._keep = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, positions: Positions) -> Batch:
        pictures = [self._pixels(int(at)) for at in positions]
        inputs = {name: torch.stack([picture[name] for picture in pictures]) for name in pictures[0]}
        return self._with_targets(inputs, positions)

    def outline(self, positions: Positions) -> Batch:
        first = self._pixels(0)  # all pictures have its size
        inputs = {name: hollow(each.dtype, len(positions), *each.shape) for name, each in first.items()}
        return self._with_targets(inputs, positions)

    def _with_targets(self, inputs: dict[str, Tensor], positions: Positions) -> Batch:
        count, targets = len(positions), self._targets[torch.from_numpy(positions)]
        return Batch(inputs, targets, weight=count, examples=count, rows=positions)

    def check(self, *, lines: Sequence[int], param: str) -> None:
        """Decodes every image once. DataError lists those that cannot be read, or differ in size from the first."""
        problems = []
        shape = None
        for at, line in enumerate(lines):
            try:
                size = tuple(next(iter(self._pixels(at).values())).shape)
            except UNREADABLE as error:
                problems.append(LineProblem(line, "image", "corrupt_image", f"'image' is damaged: {first_line(error)}"))
                continue
            shape = shape or size
            if size != shape:
                message = f"'image' has {_size(size)} pixels, and those above have {_size(shape)}; resize them"
                problems.append(LineProblem(line, "image", "other_size", message))
        if problems:
            raise formats.refusal(problems, param=param)

    def _pixels(self, at: int) -> dict[str, Tensor]:
        if at in self._kept:
            return self._kept[at]
        pixels = self.pixels(decode(self.images[at]))
        size = sum(each.nbytes for each in pixels.values())
        if size <= self._keep:
            self._keep -= size
            self._kept[at] = pixels
        return pixels


class Pixels:
    """Turns one decoded image into the model's inputs: a float tensor (channels, height, width), named `input_name`.

    A processor may give others beside it, or in place of it: patches with their mask and shape (SigLIP 2), or the
    numbers of colours (ImageGPT). Those among `accepted`, the arguments that the model has, are passed on.
    """

    def __init__(
        self,
        *,
        processor: Any = None,
        channels: int = 3,
        input_name: str = "pixel_values",
        accepted: Collection[str] = ("pixel_values",),
    ) -> None:
        self.processor = processor
        self.mode = "L" if channels == 1 else "RGB"
        self.input_name = input_name
        self.accepted = accepted

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        image = eight_bit(image).convert(self.mode)
        if self.processor is not None:
            return self._processed(image)
        array = np.asarray(image, dtype=np.float32) / 255.0
        return {self.input_name: torch.from_numpy(array[None] if self.mode == "L" else array.transpose(2, 0, 1).copy())}

    def _processed(self, image: Image.Image) -> dict[str, Tensor]:
        outputs = self.processor(images=image, return_tensors="pt")
        inputs = {name: each[0] for name, each in outputs.items() if name in self.accepted and isinstance(each, Tensor)}
        if not inputs:
            given = ", ".join(outputs) or "nothing"
            message = f"{type(self.processor).__name__} gives {given}, and the model takes {', '.join(self.accepted)}"
            raise ModelError(message, param="model", code="processor_does_not_fit")
        return inputs


def encode(rows: Sequence[Mapping[str, Any]], *, pixels: Pixels, lines: Sequence[int], param: str) -> ImageExamples:
    """Encodes rows {"image": bytes, "label": index}, whose bytes stay where they are; `lines` has the line of each."""
    examples = ImageExamples(Column(rows, "image"), Column(rows, "label"), pixels=pixels)
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
    return f"{shape[2]} by {shape[1]}" if len(shape) == 3 else " by ".join(map(str, shape))
