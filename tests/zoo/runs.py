"""One architecture of transformers after the other through the trainer and the verifier, in this process."""

from __future__ import annotations

import re
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import save_file

from app.errors import PermafrostError
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge, objections_to, verified
from tests.worker.trainer.zoo import picture_rows
from tests.zoo.bases import Entry, save
from tests.zoo.changes import ADAPTERS, POPULAR
from worker.protocol import Workspace
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import loading, pretrained
from worker.trainer.witness.observe import digest

POLICIES = ("head", "half", "lora")
LORA = {"type": "lora", "r": 2}
#: What a refusal before the first step is about: the model or the request, and never "something went wrong".
CODES = {
    "unsupported_model", "model_cannot_run", "data_does_not_fit_model", "invalid_model", "invalid_freeze_policy",
    "missing_tensors", "processor_does_not_fit",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one policy: `verified`, `refused` with the message of the refusal, or `other`, which is a fault.

    `untried`: transformers makes no model of the tiny configuration.
    """

    status: str
    reason: str = ""


def policies_of(entry: Entry) -> tuple[str, ...]:
    """All policies for popular kinds and for pictures; half of the base frozen for the others, which is the hardest."""
    return POLICIES if entry.kind in POPULAR or entry.task == "image-classification" else ("half",)


def outcomes(entry: Entry, policies: Sequence[str] = POLICIES) -> dict[str, Outcome]:
    """The outcome of each policy for one architecture."""
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = Path(name)
        try:
            base = save(entry, root / "base")
        except ImportError as error:
            return dict.fromkeys(policies, Outcome("refused", _missing_package(error)))
        except Exception as error:  # noqa: BLE001 - each class has errors of its own for a configuration
            return dict.fromkeys(policies, Outcome("untried", f"{type(error).__name__}: {error}"))
        return {policy: _outcome(entry, policy, base, root / policy) for policy in policies}


def _outcome(entry: Entry, policy: str, base: Path, root: Path) -> Outcome:
    try:
        done = _trained(entry, policy, base, root)
        if done.code:
            failure = done.failure
            refused = not done.of("step") and failure["code"] in CODES
            return Outcome("refused" if refused else "other", f"{failure['code']}: {failure['message']}")
        return (
            Outcome("verified", "") if (fault := _fault(entry, policy, done, root)) is None else Outcome("other", fault)
        )
    except PermafrostError as error:  # while the names to freeze were looked up, as a preview does
        return Outcome("refused", f"{error.code}: {error.message}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome("other", f"{type(error).__name__}: {error} {traceback.format_exc(limit=-2)}")


def _trained(entry: Entry, policy: str, base: Path, root: Path) -> Attempt:
    """Two steps of four examples."""
    place = Workspace(root).create()
    shutil.copytree(base, place.base, dirs_exist_ok=True)
    adapter = {"adapter": LORA | ADAPTERS.get(entry.kind, {})} if policy == "lora" else {}
    order = work_order(
        job_id="ftjob-zoo",
        stage="train",
        model={"type": "transformers", "path": "tiny"} | adapter,
        task=entry.task,
        data=data(place, list(_rows(entry.task))),
        hyperparameters={"n_epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
        policy={} if policy == "lora" else {"freeze": _frozen(entry, policy, place.base)},
        device="cpu",
    )
    return attempt(order, root)


def _rows(task: str) -> Iterator[dict[str, Any]]:
    """Eight examples of two classes, or eight texts."""
    if task == "image-classification":
        yield from picture_rows(32)
        return
    for at, word in enumerate(tiny.WORDS[:8]):
        if task == "causal-lm":
            yield {"text": f"the {word} sat on the mat"}
        elif task == "token-classification":
            yield {"tokens": ["the", word, "film"], "labels": ["a", "b", "a"]}
        else:
            yield {"text": f"the {word} film", "label": "ab"[at % 2]}


def _frozen(entry: Entry, policy: str, base: Path) -> list[str]:
    """Names of the base's parameters to freeze, ties under each of theirs: all but the head's, or the first half."""
    codes = loading.dtype_codes(base)
    model, new, _ = pretrained.load_skeleton(TransformersSpec(path="tiny"), base, task=entry.task, codes=codes)
    held = [each for each in tensors(model) if each.kind == "parameter" and each.name not in new]
    if policy == "half":
        held = held[: max(1, len(held) // 2)]
    elif not any(each.kind == "parameter" and each.name in new for each in tensors(model)):
        head = _head(model)
        held = [each for each in held if not head.intersection((each.name, *each.aliases))] or held
    return [name for each in held for name in (each.name, *each.aliases)]


def _head(model: Any) -> set[str]:
    """The parameters of the output embeddings; without them, those outside of the body; without them, the last."""
    embeddings = model.get_output_embeddings()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if embeddings is not None:
        mine = {id(each) for each in embeddings.parameters()}
        return {name for name, each in parameters.items() if id(each) in mine}
    prefix = f"{model.base_model_prefix}."
    return {name for name in parameters if not name.startswith(prefix)} or {list(parameters)[-1]}


def _fault(entry: Entry, policy: str, done: Attempt, root: Path) -> str | None:
    """What is wrong with the evidence or the result; None where it is verified and loads."""
    judged = judge(done)
    if judged.verdict != "verified":
        return f"{judged.verdict}: {judged.reason}"
    if problems := objections_to(done, judged):
        return problems[0]
    if policy == "lora":
        return None
    folder = root / "loaded"
    shutil.copytree(done.place.files, folder)
    save_file(done.composed(), folder / "model.safetensors", metadata={"format": "pt"})
    report = verified(done, judged, folder)
    if report.level != 3 or report.problems:
        return f"level {report.level}: {report.problems[:1]}"
    return _reloading_fault(entry, done, folder) if policy == "half" else None


def _reloading_fault(entry: Entry, done: Attempt, folder: Path) -> str | None:
    """What `from_pretrained` makes of the result that training did not leave."""
    auto = getattr(transformers, pretrained.AUTO_CLASS[entry.task])
    loaded, info = auto.from_pretrained(folder, output_loading_info=True)
    if lacking := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        return f"loading reports {lacking[:3]}"
    live = dict(loaded.named_parameters(remove_duplicate=False)) | dict(loaded.named_buffers(remove_duplicate=False))
    judged = {name for name, each in done.observed.items() if each["persistent"]}
    moved = sorted(name for name in judged if digest(live[name]) != done.observed[name]["trained"])
    return f"loading gives other bytes for {moved[:3]}" if moved else None


def _missing_package(error: ImportError) -> str:
    named = re.search(r"requires? the (\w+) library", str(error))
    return f"transformers needs another package: {named[1] if named else str(error).strip().splitlines()[0]}"
