"""Configurations of published folders: what chooses code is removed, what cannot be built is refused by name."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, Mamba2Config, Mamba2ForCausalLM

from app.errors import ModelError
from app.evidence.format.templates import FOLDER
from app.specs.models import TransformersSpec
from tests.worker.trainer import tiny
from tests.worker.trainer.attempts import Attempt, attempt, data, work_order
from tests.worker.trainer.judging import judge
from tests.worker.trainer.zoo import KINDS
from worker.protocol import Workspace
from worker.trainer.models import configs, loading

REMOTE = {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.X"}
KERNELS = {"_attn_implementation": "kernels-community/x", "experts_implementation": "x/y"}


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def run(place: Workspace) -> Attempt:
    order = work_order(
        job_id="ftjob-test",
        stage="train",
        model={"type": "transformers", "path": "tiny"},
        task="causal-lm",
        data=data(place, [{"text": "the cat sat on the mat"}] * 4),
        hyperparameters={"n_epochs": 1, "batch_size": 4},
        policy={"freeze": ["model.layers.**"]},
        device="cpu",
    )
    return attempt(order, place.root)


@pytest.fixture
def llama(tmp_path: Path) -> Workspace:
    place = Workspace(tmp_path).create()
    tiny.llama(place.base)
    return place


@pytest.mark.parametrize("name", ["phi3", "falcon", "deepseek-v3"])
def test_code_of_a_folder_is_not_run_where_transformers_has_its_own(tmp_path: Path, name: str) -> None:
    """As published: a class of its own, and a reference to code beside it. The result has no such reference."""
    place = Workspace(tmp_path).create()
    KINDS[name].save(place.base)
    change(place.base / "config.json", auto_map=REMOTE, **KERNELS)
    change(place.base / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_x.X", None]})
    for module in ("configuration_x", "modeling_x", "tokenization_x"):
        (place.base / f"{module}.py").write_text("raise SystemExit('this was run')")
    done = run(place)
    if done.code == 0:
        assert judge(done).verdict == "verified"
    else:  # this policy freezes none of Falcon's tensors
        assert done.failure["code"] == "invalid_freeze_policy"
        return
    notes = [each["message"] for each in done.of("event")]
    assert any("_attn_implementation, auto_map, experts_implementation ignored" in note for note in notes)
    assert any(note.startswith("tokenizer_config.json: auto_map ignored") for note in notes)
    for file in ("config.json", "tokenizer_config.json"):
        assert configs.ignored_keys(done.place.files / file) == []


def test_a_model_that_only_its_own_code_can_load(llama: Workspace) -> None:
    """Refused with that reason."""
    change(llama.base / "config.json", model_type="mystery", auto_map=REMOTE)
    done = run(llama)
    assert done.failure["code"] == "unsupported_model"
    assert "'mystery' model: only the code that its config.json names (auto_map)" in done.failure["message"]


def test_a_quantised_model_says_what_to_take(llama: Workspace) -> None:
    """By its method's name, wherever the key is."""
    change(llama.base / "config.json", text_config={"quantization_config": {"quant_method": "fp8"}})
    done = run(llama)
    assert done.failure["code"] == "quantised_model"
    assert "'text_config.quantization_config' (fp8)" in done.failure["message"]
    assert "plain weights" in done.failure["message"]


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "32"},
        {"num_hidden_layers": 2.5},
        {"hidden_act": 7},
        {"num_attention_heads": [2]},
        {"vocab_size": None},
        {"rope_parameters": "x"},
        {"id2label": ["a", "b"]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_a_value_of_another_type_is_refused_by_its_key(llama: Workspace, values: dict[str, Any]) -> None:
    """A mistake in the file, and not a crash."""
    change(llama.base / "config.json", **values)
    done = run(llama)
    assert (done.code, done.failure["code"], done.failure["param"]) == (1, "invalid_model", "model")


def test_keys_are_removed_at_any_depth(tmp_path: Path) -> None:
    """And the reader says which; a null chooses nothing."""
    content = {"a": [{"auto_map": {}, "b": 1}], "text_config": KERNELS, "trust_remote_code": None}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert configs.read(tmp_path / "config.json") == {"a": [{"b": 1}], "text_config": {}}
    assert configs.ignored_keys(tmp_path / "config.json") == [
        "a[0].auto_map",
        "text_config._attn_implementation",
        "text_config.experts_implementation",
    ]


def test_notations_of_transformers_are_read(tmp_path: Path) -> None:
    """Infinity in Mamba 2's limits is an object in the file; also where a key beside it is ignored."""
    config = Mamba2Config(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_heads=4, head_dim=16, state_size=4)
    for at, extra in enumerate(({}, {"auto_map": REMOTE})):
        place = Workspace(tmp_path / str(at)).create()
        Mamba2ForCausalLM(config).save_pretrained(place.base)
        tiny.tokenizer(place.base, ("<unk>", "<s>", "</s>"), bert_like=False)
        change(place.base / "config.json", **extra)
        loaded = loading.load(TransformersSpec(path="tiny"), place.base, task="causal-lm", labels=None, seed=0)
        limits: Any = loaded.model.config
        assert tuple(limits.time_step_limit) == (0.0, float("inf"))


def test_a_deep_file_is_refused(tmp_path: Path) -> None:
    """Before any recursion over it could fail."""
    (tmp_path / "config.json").write_text("[" * 60 + "]" * 60)
    with pytest.raises(ModelError, match="not an object"):
        configs.read(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a":' * 60 + "1" + "}" * 60)
    with pytest.raises(ModelError, match="nested deeper"):
        configs.read(tmp_path / "config.json")


@pytest.mark.parametrize("values", [{"num_attention_heads": 0}, {"pad_token_id": 999}])
def test_numbers_with_which_no_model_can_be_built_are_the_configurations_fault(
    llama: Workspace, values: dict[str, Any]
) -> None:
    """torch and transformers raise errors of arithmetic and assertions for them."""
    change(llama.base / "config.json", **values)
    done = run(llama)
    assert (done.failure["code"], done.failure["param"]) == ("invalid_model", "model")


def test_a_tokenizer_of_an_unknown_kind_is_the_models_fault(llama: Workspace) -> None:
    """The tokenizers library raises a bare Exception for it."""
    path = llama.base / "tokenizer.json"
    path.write_text(path.read_text().replace('"WordLevel"', '"OfTomorrow"'))
    done = run(llama)
    assert done.failure["code"] == "invalid_model"
    assert "could not load the tokenizer" in done.failure["message"]


def test_several_chat_templates_stay_in_the_tokenizers_configuration(llama: Workspace) -> None:
    """They stay where the base has them."""
    templates = [{"name": name, "template": "{{ messages[0].content }}"} for name in ("default", "tool_use")]
    change(llama.base / "tokenizer_config.json", chat_template=templates)
    done = run(llama)
    assert done.code == 0
    assert not [path for path in done.place.files.iterdir() if path.is_dir()]
    written = json.loads((done.place.files / "tokenizer_config.json").read_text())["chat_template"]
    assert sorted(each["name"] for each in written) == ["default", "tool_use"]


def test_several_chat_templates_in_files_of_their_own(llama: Workspace) -> None:
    """As transformers 5 writes them: the result has the same files, and nothing else of that folder."""
    inside = llama.base / FOLDER
    inside.mkdir()
    (llama.base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (inside / "tool_use.jinja").write_text("{{ messages[1].content }}")
    (inside / "run.py").write_text("")
    done = run(llama)
    assert done.code == 0
    assert [path.name for path in (done.place.files / FOLDER).iterdir()] == ["tool_use.jinja"]
    templates = AutoTokenizer.from_pretrained(done.place.files).chat_template
    assert templates == {"default": "{{ messages[0].content }}", "tool_use": "{{ messages[1].content }}"}


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
@pytest.mark.parametrize("kind", [{}, {"model_type": "timm_wrapper"}])
def test_a_model_of_timm_names_the_package(llama: Workspace, kind: dict[str, Any]) -> None:
    """Its config.json has no model_type, or that of transformers' wrapper."""
    (llama.base / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": {}, **kind}))
    done = run(llama)
    assert done.failure["code"] == "invalid_model"
    assert done.failure["message"].endswith("(install it where the worker runs: pip install timm)")


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_a_tokenizer_that_a_missing_package_reads(llama: Workspace) -> None:
    """transformers names another package for it."""
    (llama.base / "tokenizer.json").unlink()
    (llama.base / "tokenizer.model").write_bytes(b"\x0a\x05junk")
    done = run(llama)
    assert done.failure["code"] == "invalid_model"
    assert "pip install sentencepiece" in done.failure["message"]
