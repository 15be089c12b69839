"""The files of weights that a result or a checkpoint consists of, composed of slices of blobs.

All tensors are in one file, apart from those of a sentence-transformers model's modules, each of which has its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from app.evidence.format.compose import ComposedFile, Slice, compose
from app.evidence.format.modules import file_of, files_listed, tensor_prefix
from app.evidence.format.statement import FileRef
from app.jsontypes import JsonDict
from app.storage.blobs import Storage


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file that is composed on download. In `layout` tensors have the names that they have in the file."""

    ref: FileRef
    layout: ComposedFile

    def tensors(self) -> list[JsonDict]:
        """The rows of a model's tensors that are in this file, under their names among all tensors of the model."""
        prefix = tensor_prefix(self.ref.name)
        return [
            {
                "file": self.ref.name,
                "name": f"{prefix}{each.name}",
                "dtype": each.dtype,
                "shape": list(each.shape),
                "nbytes": each.nbytes,
                "sha256": each.sha256,
                "blob": each.blob,
                "offset": each.offset,
            }
            for each in self.layout.slices
        ]


def weight_files(
    slices: Iterable[Slice], metadata: Mapping[str, str], *, main: str, folder: Path, storage: Storage
) -> list[WeightFile]:
    """Composes the files that hold these tensors. `folder` has the files beside them, among them `modules.json`."""
    modules = files_listed(folder)
    held: dict[str, list[Slice]] = {main: []}
    for each in slices:
        file = file_of(each.name, modules) or main
        held.setdefault(file, []).append(each._replace(name=each.name.removeprefix(tensor_prefix(file))))

    files = []
    for name, mine in held.items():
        layout = compose(mine, metadata)
        files.append(WeightFile(FileRef(name, layout.size, layout.sha256(storage.open)), layout))
    return files
