"""Names that a verifier would not follow are known before there is a result."""

from collections.abc import Mapping

from app.evidence.attest.names import unfollowed
from app.evidence.attest.observations import read_observations
from app.freeze.plan import resolve
from app.freeze.policy import Policy
from tests.app.evidence.attest.readings import NEW, OLD, reading, seen


def problems(
    *stored: str,
    live: tuple[str, ...] = (),
    base: tuple[str, ...] = (),
    configs: tuple[bytes, bytes] | None = None,
    frozen: str = "enc.**",
    bytes_of: Mapping[str, str] | None = None,
) -> list[str]:
    """Of tensors that have these names in the result; the live names and those in the base are given, or alike."""
    live = live or (stored if stored[0].startswith("model.") else ("enc.w", "head.w"))
    base = base or stored
    rows = [
        seen(name, base=[{"name": before, "rows": None}], result=after)
        for name, before, after in zip(live, base, stored, strict=True)
    ]
    tensors = read_observations({"tensors": rows})
    plan = resolve(Policy.from_json({"freeze": [frozen]}), [each.info for each in tensors])
    before = {name: reading(name, OLD) for name in base}
    after = {name: reading(name, (bytes_of or {}).get(name, OLD)) for name in stored}
    return list(unfollowed(plan, tensors, base=before, result=after, kind="full", configs=configs))


def test_names_that_agree_have_no_problem() -> None:
    """Also where files leave out one common prefix."""
    assert problems("enc.w", "head.w") == []


def test_a_name_of_another_tensor_is_a_problem() -> None:
    """The tensor is named, and what it is stored as."""
    assert problems("other.name", "head.w") == ["enc.w: stored as 'other.name', which is not its live name"]


def test_a_rename_that_applies_to_its_own_result() -> None:
    """A.X-K1's norm gets `mlp.` before its name while loading, and would get it again."""
    stored = ("model.layers.0.post_mlp_layernorm.weight", "model.layers.0.mlp.up_proj.weight")
    live = ("model.layers.0.mlp.post_mlp_layernorm.weight", "model.layers.0.mlp.up_proj.weight")
    assert problems(*stored, live=live, frozen="**.post_mlp_layernorm.weight") == []


def test_the_language_model_of_a_larger_model() -> None:
    """Its tensors are followed into a result of its own kind; a frozen tensor of another part would not be loaded."""
    configs = (
        b'{"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text"}}',
        b'{"model_type": "qwen3_5_text"}',
    )
    parts = {"model.language_model.enc.w": "model.enc.w", "lm_head.weight": "lm_head.weight"}
    assert problems(*parts.values(), base=tuple(parts), configs=configs, frozen="model.**") == []
    parts = {"model.visual.enc.w": "model.enc.w", "lm_head.weight": "lm_head.weight"}
    (problem,) = problems(*parts.values(), base=tuple(parts), configs=configs, frozen="model.**")
    assert "outside of its language model 'qwen3_5_text'" in problem


def test_layers_are_compared_with_those_of_the_language_model() -> None:
    """Of Llama 4: the number in the base's own text_config counts, and not a default of the whole."""
    inner = b'{"model_type": "llama4_text", "num_hidden_layers": 2, "moe_layers": [0, 1]}'
    configs = (b'{"model_type": "llama4", "text_config": ' + inner + b"}", inner)
    parts = {"language_model.model.enc.w": "model.enc.w", "language_model.lm_head.weight": "lm_head.weight"}
    assert problems(*parts.values(), base=tuple(parts), configs=configs, frozen="model.**") == []
    fewer = (configs[0], inner.replace(b": 2", b": 1").replace(b"[0, 1]", b"[0]"))
    assert any(
        "1, the base's 2" in each
        for each in problems(*parts.values(), base=tuple(parts), configs=fewer, frozen="model.**")
    )


def test_a_result_of_another_kind_is_a_problem() -> None:
    """Its class would load none of the tensors."""
    (problem,) = problems("enc.w", "head.w", configs=(b'{"model_type": "bert"}', b'{"model_type": "megatron-bert"}'))
    assert "another class is loaded" in problem


def test_a_tie_with_other_bytes_is_a_problem() -> None:
    """transformers leaves the two apart, and its older versions load one of them into both."""
    stored = ("model.embed_tokens.weight", "lm_head.weight")
    tied = (b'{"model_type": "qwen3", "tie_word_embeddings": true}',) * 2
    assert problems(*stored, live=stored, configs=tied, frozen="model.**") == []
    (problem,) = problems(*stored, live=stored, configs=tied, frozen="model.**", bytes_of={stored[1]: NEW})
    assert "config.json ties it to 'model.embed_tokens.weight'" in problem
