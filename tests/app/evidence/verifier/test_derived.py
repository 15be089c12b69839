"""What a class makes of a configuration is computed from its statements, within bounds and without running them."""

import json
import random
import warnings
from typing import Any

import pytest

from app.evidence.verifier.check_configuration import shape_of
from app.evidence.verifier.derived import Making, made_of
from app.evidence.verifier.loaders import record
from tests import depth

EVERY = [
    "afmoe beam cohere2_moe deepseek_v32 deepseek_v4 dots3_note_text exaone_moe glm_moe_dsa gpt_oss laguna",
    "lfm2 llama4_text mellum minimax_m3_vl_text mistral_large4_text modernbert-decoder olmo_hybrid",
    "qwen2_moe qwen3 qwen3_5 qwen3_next qwen4_exp_text t5 udop zamba2",
    "beit convnext dinov3_convnext levit hgnet_v2 internvl_vision sam2_hiera_det_model textnet",
    "gemma3 gemma4 llava mistral3 mllama qwen2_5_omni pe_audio voxtral_realtime timm_backbone rf_detr",
]


def making(*steps: str, **defaults: Any) -> Making:
    return {"steps": list(steps), "defaults": defaults}


@pytest.mark.parametrize(
    ("step", "value"),
    [
        ("self.x = [i % 2 for i in range(self.n) if i]", [1, 0]),
        ("self.x = ['a'] * self.n\nself.x[-1] = 'b'", ["a", "a", "b"]),
        ("self.x = []\nfor i in range(self.n):\n    if i > 0:\n        self.x.append(i)", [1, 2]),
        ("a, b = (1, 2)\nself.x = {'a': a}.get('b', b)", 2),
        ("self.x = kwargs.pop('every', 4)", 7),
        ("self.x = f'stage{self.n}' if 0 < self.n <= 3 else None", "stage3"),
        ("self.n += 1\nself.x = -self.n", -4),
        ("logger.warning('no')\nself.x = (n := self.n) // 2 or n", 1),
        ("if isinstance(self.n, (list, tuple)):\n    self.x = 1\nelse:\n    self.x = not 0", True),
    ],
)
def test_statements_are_computed(step: str, value: object) -> None:
    assert made_of({"n": 3, "every": 7}, making(step, n=1))["x"] == value


@pytest.mark.parametrize(
    "step",
    [
        "self.x = open('/etc/passwd')",
        "self.x = __import__('os')",
        "self.x = self.n.__class__",
        "self.x = ().__class__.__bases__",
        "self.x = [0] * 10 ** 9",
        "self.x = [0] * self.n * self.n",
        "self.x = list(range(self.n * 100000))",
        "self.x = [j for i in range(9999) for j in range(9999)]",
        "while True:\n    self.x = 1",
        "self.x = 'a'.format(self)",
        "self.x = lambda: 1",
        "self.x = self.missing",
        "self.x = 1 // 0",
        "raise ValueError\nself.x = missing",
    ],
)
def test_what_is_not_understood_is_unknown(step: str) -> None:
    assert "x" not in made_of({"n": 900}, making(step, n=1))


def test_what_follows_from_the_unknown_is_unknown_and_nothing_else() -> None:
    made = made_of({"n": 3}, making("self.x = missing\nself.y = self.x\nself.z = self.n", n=1))
    assert made == {"n": 3, "z": 3}


def test_work_is_bounded() -> None:
    """A list in a list in a list of a hostile number of layers ends, whatever is computed."""
    step = "for i in range(self.n):\n    for j in range(self.n):\n        self.x = i"
    assert "x" not in made_of({"n": 20_000}, making(step, n=1))


def test_the_classes_that_one_extends_go_on_with_it() -> None:
    outer, inner = (
        "self.x = 1\nsuper().__post_init__(**kwargs)\nself.z = self.x",
        "self.x += 1\nsuper().__post_init__(**kwargs)",
    )
    made = made_of({"own": 5, "other": 6}, making(outer, inner) | {"aliases": {"other": "y"}})
    assert made == {"x": 2, "z": 2, "own": 5, "y": 6}


@pytest.mark.parametrize("kinds", EVERY, ids=[kinds.split()[0] for kinds in EVERY])
def test_as_the_installed_classes_make_it(kinds: str) -> None:
    """Read, saved, and read and saved again by transformers, a configuration says the same of its tensors."""
    transformers = pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    differ = {kind: found for kind in kinds.split() if (found := differences(transformers, kind))}
    assert differ == {}


@pytest.mark.slow
def test_as_every_installed_class_makes_it() -> None:
    transformers = pytest.importorskip("transformers", reason="the worker's dependencies are not installed")
    from tools.loaders import installed_kinds

    # Of a hybrid DPT, code chooses the kind of the part inside; the assistant sets a number of layers of its part.
    by_code = ("dpt", "gemma4_unified_assistant")
    kinds = sorted(installed_kinds())
    assert len(kinds) > 600
    kinds = kinds[:: depth.EVERY]
    differ = {kind: found for kind in kinds if kind not in by_code and (found := differences(transformers, kind))}
    assert differ == {}


def differences(transformers: Any, kind: str) -> dict[str, tuple[Any, Any]]:
    """Keys by which configurations of a kind have other tensors after they were saved."""
    made = transformers.CONFIG_MAPPING[kind]
    found: dict[str, tuple[Any, Any]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for config in configurations(kind, json.loads(made().to_json_string())):
            before, saved = shape_of(config), config
            for _ in range(2):
                try:
                    saved = json.loads(made.from_dict(json.loads(json.dumps(saved))).to_json_string())
                except Exception:  # noqa: BLE001 - each class refuses in its own way
                    break
                after = shape_of(saved)
                different = {path for path in before | after if before.get(path, "-") != after.get(path, "-")}
                found |= {path: (before.get(path), after.get(path)) for path in different}
    return found


def configurations(kind: str, full: dict[str, Any]) -> list[dict[str, Any]]:
    """Configurations that give some keys and leave others to the class."""
    numbers = random.Random(kind)
    some = [{key: value for key, value in full.items() if numbers.random() < 0.5} for _ in range(4)]
    changed: list[dict[str, Any]] = [{} for _ in range(4)]
    inputs = dict(record(kind).get("making", {}).get("defaults", {}))
    for config in changed:
        for key, value in (inputs | full).items():
            if type(value) is bool and numbers.random() < 0.4:
                config[key] = not value
            elif type(value) is int and ("layers" in key or key in inputs) and numbers.random() < 0.5:
                config[key] = numbers.choice([1, 2, 4, 6, 8])
            elif isinstance(value, dict) and numbers.random() < 0.5:
                config[key] = {own: each for own, each in value.items() if numbers.random() < 0.6}
    return [config | {"model_type": kind} for config in ({}, full, *some, *changed)]
