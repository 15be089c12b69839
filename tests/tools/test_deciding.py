"""Whatever key of a configuration decides on tensors is one that the verifier compares."""

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.evidence.verifier.check_configuration import _layer_counts, shape_of
from app.evidence.verifier.loaders import LAYERS, is_known

pytest.importorskip("transformers", reason="the worker's dependencies are not installed")

import torch
from transformers.initialization import no_init_weights

from tests.depth import DEPTH
from tools.deciding import _deciding, configuration, in_json
from tools.loaders import _classes

#: One class of so many is tried; PERMAFROST_TEST_DEPTH=40 tries all of them, which takes an hour.
STEP = max(1, int(40 / DEPTH))
#: Seconds for a class, of which a few are large or slow to make.
SECONDS = 20
#: What a new head or another use changes, and what has no effect on tensors and would be tried often.
FREE = ("vocab_size", "num_labels", "id2label", "label2id", "architectures", "model_type", "dtype", "problem_type")

SOURCE = """
class Model:
    def __init__(self, config):
        rank, self.width = config.rank, config.width
        scale = config.scale
        self.parts = [Part() for _ in range(config.parts)]
        self.scale = Scale() if scale > 0 else None
        self._more(config)

    def _more(self, config):
        if config.more:
            self.gate = Gate()

    def forward(self, config):
        if config.later:
            return 1
"""


def test_keys_are_followed_into_conditions_and_ranges(tmp_path: Path) -> None:
    """Through local names, and into methods that `__init__` calls; the forward pass makes nothing."""
    (tmp_path / "modeling.py").write_text(SOURCE)
    assert _deciding(tmp_path / "modeling.py") == {"scale", "parts", "more"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_key_drops_tensors_unseen() -> None:
    """Each key of a class's configuration is changed in turn: what loses tensors and no size is compared."""
    unseen: dict[str, str] = {}
    tried = 0
    for kind, model in list(_classes())[::STEP]:
        config = configuration(model.config_class)
        if config is not None and getattr(model.config_class, "model_type", kind) == kind:
            tried += 1
            unseen |= {f"{model.__name__}: {key}": tensor for key, tensor in losses(model, in_json(config))}
    assert unseen == {}
    assert tried * STEP > 800


def losses(model: Any, full: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys by which a class loses a tensor and the verifier sees no difference, and the tensor."""
    config = small(full)
    before = tensors(model, config)
    if before is None or not is_known(config):
        return
    end = time.monotonic() + SECONDS
    for path, value in leaves(config):
        for other in others(value) if time.monotonic() < end else ():
            changed = with_value(config, path, other)
            if seen(config, changed):
                continue
            after = tensors(model, changed)
            for first, second in ((before, after or before), (after or before, before)):
                sized = any(second.get(name, shape) != shape for name, shape in first.items())
                lost = sorted(first.keys() - second.keys())
                if lost and not sized:
                    yield f"{'.'.join(path)} is {other!r} for {value!r}", lost[0]


def small(config: dict[str, Any]) -> dict[str, Any]:
    """With two layers in place of many."""
    few = {key: 2 if key.endswith(LAYERS) and type(value) is int else value for key, value in config.items()}
    return {key: small(value) if isinstance(value, dict) else value for key, value in few.items()}


def tensors(model: Any, config: dict[str, Any]) -> dict[str, Any] | None:
    """Names and shapes of what a class makes of a configuration; None where it makes nothing."""
    try:
        with torch.device("meta"), no_init_weights():
            made = model(model.config_class.from_dict(copy.deepcopy(config)))
    except Exception:  # noqa: BLE001 - each class refuses in its own way
        return None
    return {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()}


def seen(config: dict[str, Any], changed: dict[str, Any]) -> bool:
    """Whether the verifier takes them for configurations of different tensors."""
    if shape_of(config) != shape_of(changed):
        return True
    before, after = (dict(_layer_counts(each, each["model_type"])) for each in (config, changed))
    return any(before[path] != after[path] for path in before.keys() & after.keys())


def leaves(config: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in config.items():
        if isinstance(value, dict) and "model_type" in value:
            yield from leaves(value, (*at, key))
        elif key not in FREE and not isinstance(value, dict) and not key.endswith(("token_id", "dropout")):
            yield (*at, key), value


def others(value: Any) -> list[Any]:
    """Values that may mean less, or more, than this one."""
    match value:
        case bool():
            return [not value]
        case int():
            return [*sorted({1, value - 1, value + 1} - {value}), None]
        case float():
            return [0.0, None] if value else [0.5]
        case list():
            return [value[:-1], []] if value else []
        case None:
            return [1, True, 0.5]
        case _:
            return [None]


def with_value(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(config))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed
