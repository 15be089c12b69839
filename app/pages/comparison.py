"""What changed between two stored models, bounded: which tensors differ is always said, by how much if soon read."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from app.evidence.diff.diff import STATUSES, Difference, differences
from app.models.tables import Model
from app.pages.freeze_map import DrawnTensor
from app.storage.blobs import Storage

#: Bytes of changed tensors, of both models together, that a page reads: a second or two.
MOST_BYTES: Final = 64 << 20
#: Tensors in the table; the picture has all of them.
SHOWN: Final = 200


@dataclass(frozen=True, slots=True)
class ComparedModels:
    """Every tensor of either model, the changed ones first. `measured`: the changes were read and measured."""

    differences: Sequence[Difference]
    counts: dict[str, int]
    changed_bytes: int
    measured: bool

    def drawn(self) -> list[DrawnTensor]:
        """As the freeze map draws them."""
        return [_drawn(each) for each in self.differences if each.status != "removed"]


def compare(storage: Storage, base: Model, result: Model) -> ComparedModels:
    """Raises Conflict where the tensors of a model are not known, NotFound where a blob is missing."""
    from app.models.compare import prepare, tensors_of  # numpy, which nothing else here needs

    comparison = prepare(storage, base, result, None)
    with comparison.blobs as blobs:
        tensors = tensors_of(base, blobs), tensors_of(result, blobs)
        # Those whose digests are the same are not read in either pass.
        known = list(differences(*tensors, statistics=False))
        moved = [each for each in known if each.status == "changed"]
        size = sum(tensor.nbytes for each in moved for tensor in (each.base, each.result) if tensor)
        measured = size <= MOST_BYTES
        found = list(differences(*tensors)) if measured and moved else known
    counts = Counter(each.status for each in found)
    ordered = sorted(found, key=lambda each: (each.status == "same", -_relative(each), each.name))
    return ComparedModels(ordered, {status: counts[status] for status in STATUSES}, size, measured)


def _relative(difference: Difference) -> float:
    return (difference.change.relative_l2 or 0.0) if difference.change else 0.0


def _drawn(difference: Difference) -> DrawnTensor:
    tensor = difference.result
    assert tensor is not None
    elements = 1
    for size in tensor.shape:
        elements *= size
    role = {"same": "same", "changed": "trainable"}.get(difference.status, "new")
    relative = _relative(difference) if difference.change else None
    changed = difference.status == "changed"
    return DrawnTensor(tensor.name, role, tensor.shape, tensor.dtype, elements, changed, relative, tensor.sha256)
