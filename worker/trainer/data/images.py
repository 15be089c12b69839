"""Images to pixels, on PIL: decoded once and kept while they fit a budget of memory, else decoded per batch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from app.errors import DataError
from worker.trainer.data.batch import Batch
from worker.trainer.data.order import Positions

KEPT_BYTES = 2 << 30
MAX_PIXELS = 64_000_000


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

    def check(self, *, param: str) -> None:
        """Decode every image once. DataError lists those that cannot be, or that have another size than the first."""
        problems = []
        shape = None
        for at in range(len(self)):
            try:
                found = tuple(self._pixels(at).shape)
            except (OSError, ValueError, SyntaxError, Warning, UnidentifiedImageError) as error:
                problems.append(_problem(at, "corrupt_image", f"cannot be decoded: {str(error)[:150]}"))
                continue
            shape = shape or found
            if found != shape:
                problems.append(_problem(at, "other_size", f"is {found} and those above are {shape}; resize them"))
        if problems:
            raise DataError(
                f"{len(problems)} images cannot be used; {problems[0]['message']}", param=param, errors=problems[:100]
            )

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


def encode(rows: Sequence[Mapping[str, Any]], *, pixels: Pixels, input_name: str, param: str) -> ImageExamples:
    """Rows {"image": bytes, "label": index}."""
    examples = ImageExamples(
        [row["image"] for row in rows], [row["label"] for row in rows], pixels=pixels, input_name=input_name
    )
    examples.check(param=param)
    return examples


def decode(data: bytes) -> Image.Image:
    """The picture, read whole. Files that claim more than `MAX_PIXELS` are refused before they are unpacked."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a decompression bomb is a warning first, damaged metadata too
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} by {image.height} pixels are more than {MAX_PIXELS}")
            image.load()
            return image.copy()


def _problem(at: int, code: str, message: str) -> dict[str, Any]:
    return {"line": None, "field": "image", "code": code, "message": f"image {at + 1} {message}"}
