"""Attacks by a lying signer on what a loader takes: the proved bytes are in the folder, and other bytes are loaded.

Each names the one check that rejects it. `tests/loading` shows with the loaders themselves what they would have taken.
"""

import json
from pathlib import Path
from typing import Any

from app.evidence.format.modules import SentenceModule
from app.evidence.format.statement import Row, base_readings, row_order, total
from app.evidence.format.templates import FOLDER
from tests.tamper.attacks import Options, attack
from tests.tamper.kit import (
    World,
    adapter_rows,
    adapter_world,
    base_tensors,
    file_bytes,
    flipped,
    forged,
    fused_rows,
    fused_world,
    readings,
    result_tensors,
    scheduled_rows,
    sharded_world,
    tensor,
)

PROVED = "bert.enc.0.w"


def bert_world(root: Path) -> World:
    """A result with a model_type that transformers knows, all in one dtype."""
    base, result = base_tensors(), result_tensors()
    for tensors, name in ((base, "enc.0.b"), (result, "bert.enc.0.b")):
        tensors[name] = tensor("F32", 8, seed="0b")
    files = {"config.json": b'{"model_type": "bert", "dtype": "float32"}'}
    return World(
        root,
        base_weights={"model.safetensors": base},
        result_weights={"model.safetensors": result},
        result_files=files,
    )


def add(world: World, name: str, file: str = "model.safetensors") -> None:
    """Other bytes under another name, which the signer calls a new tensor."""
    rows = world.rows()
    proved = next(iter(value for name, value in world.result_weights[file].items() if ".enc." in name))
    world.result_weights[file][name] = (proved[0], proved[1], flipped(proved[2]))
    world.write()
    other = readings(world.result)[name]
    world.sign(world.predicate(rows=(*rows, Row(name=name, role="new", initial=other, result=other, changed=True))))


# Files


@attack("40-single-file-beside-shards", only="one_weights_file", world=sharded_world)
def _(world: World) -> Options:
    """Loaders open model.safetensors and never look at the shard that holds the frozen tensors."""
    _, second = world.result_weights
    (world.result / second).unlink()
    world.result_weights["model.safetensors"] = world.result_weights.pop(second)
    world.write()
    world.sign()


@attack("22-weights-for-a-variant", only="one_weights_file")
def _(world: World) -> Options:
    """`variant="fp16"` opens them in place of the others."""
    head = {"head.b": world.result_weights["model.safetensors"].pop("head.b")}
    world.result_weights["model.fp16.safetensors"] = head
    world.write()
    world.sign()


@attack("40-index-for-a-variant", only="index_name")
def _(world: World) -> Options:
    world.result_files["model.safetensors.index.fp16.json"] = b'{"metadata": {}, "weight_map": {}}'
    world.write()
    world.sign()


@attack("40-index-of-another-name", only="index_name", world=sharded_world)
def _(world: World) -> Options:
    (world.result / "model.safetensors.index.json").rename(world.result / "weights.safetensors.index.json")
    world.sign()


@attack("18-shards-called-a-distributed-checkpoint", only="weights_name", world=sharded_world)
def _(world: World) -> Options:
    """transformers takes every safetensors file of the folder then, whatever the index says."""
    for number, name in enumerate(list(world.result_weights), start=1):
        (world.result / name).unlink()
        renamed = f"shard-0000{number}-model-00001-of-00001.safetensors"
        world.result_weights[renamed] = world.result_weights.pop(name)
    world.write()
    world.sign()


@attack("18-weights-in-capitals", only="weights_name")
def _(world: World) -> Options:
    """On a file system that ignores case it is a second file of the first one's name."""
    world.result_files["MODEL.SAFETENSORS"] = file_bytes({"x": tensor("F32", 1, seed="x")})
    world.write()
    world.sign()


for number, name in enumerate(("Config.json", "model.\u017fafetensors")):

    @attack(f"18-another-spelling-of-a-file-{number}", only="weights_name")
    def _(world: World, name: str = name) -> Options:
        """Where case does not matter, it is the file that a loader opens, and the verifier took it for another."""
        world.result_files[name] = b"{}"
        world.write()
        world.sign()


@attack("38-name-that-ends-in-a-dot", only="subject_names")
def _(world: World) -> Options:
    """Windows leaves the dot out."""
    (world.result / "config.json").rename(world.result / "config.json.")
    world.sign()


for number, ending in enumerate((".gguf", ".onnx", ".xml", ".npz", ".distcp", ".tflite", ".zip", ".H5")):

    @attack(f"22-weights-in-another-format-{number}", only="no_containers")
    def _(world: World, ending: str = ending) -> Options:
        world.result_files[f"model{ending}"] = b"weights"
        world.write()
        world.sign()


@attack("41-code-in-a-result-signed", only="no_code")
def _(world: World) -> Options:
    world.result_files["modeling_toy.py"] = b"pass"
    world.write()
    world.sign()


for number, name in enumerate(("tool.py", "model.safetensors", ".tool.jinja", "deep/tool.jinja")):

    @attack(f"41-other-file-among-templates-{number}")
    def _(world: World, name: str = name) -> Options:
        """Loaders read templates alone in this folder, so nothing else may be there, even if signed."""
        world.result_files |= {f"{FOLDER}/tool.jinja": b"{{ messages }}", f"{FOLDER}/{name}": b"x"}
        world.write()
        world.sign()


@attack("41-modules-of-sentence-transformers", only="no_modules")
def _(world: World) -> Options:
    """Each module names its class and the folder of its weights."""
    module = {"idx": 0, "name": "0", "path": "../elsewhere", "type": "sentence_transformers.models.Transformer"}
    world.result_files["modules.json"] = json.dumps([module]).encode()
    world.write()
    world.sign()


def sentence_world(root: Path) -> World:
    """A result with the modules of sentence-transformers, as this product writes them."""
    modules = [SentenceModule("Transformer", "").to_json(0), SentenceModule("Pooling", "1_Pooling").to_json(1)]
    pooling = json.dumps({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True})
    files = {"modules.json": json.dumps(modules).encode(), "1_Pooling/config.json": pooling.encode()}
    return World(root, result_files=files)


@attack("41-second-name-of-a-sentence-configuration", only="no_modules", world=sentence_world)
def _(world: World) -> Options:
    """sentence-transformers reads it where the first name is missing or empty: the model's dtype is an argument."""
    text = json.dumps({"max_seq_length": 128, "model_args": {"torch_dtype": "float16"}})
    (world.result / "sentence_roberta_config.json").write_text(text)
    (world.result / "sentence_bert_config.json").write_text("{}")
    world.sign()


@attack("20-weights-marked-as-those-of-flax", only="metadata_format")
def _(world: World) -> Options:
    """transformers 4 transposes kernels while it loads them."""
    path = world.result / "model.safetensors"
    path.write_bytes(file_bytes(world.result_weights[path.name], {"format": "flax"}))
    world.sign(world.predicate(metadata={"format": "flax"}))


# Configurations


def configured(world: World, raw: str, name: str = "config.json") -> None:
    world.result_files[name] = raw.encode()
    world.write()
    world.sign()


@attack("28-key-of-a-configuration-twice", only="config_readable")
def _(world: World) -> Options:
    configured(world, '{"model_type": "toy", "tie_word_embeddings": false, "tie_word_embeddings": true}')


@attack("28-configuration-that-is-not-an-object", only="config_readable")
def _(world: World) -> Options:
    configured(world, "[]", "generation_config.json")


for key, value in {
    "auto_map": {"AutoModel": "elsewhere--modeling_toy.Toy"},
    "transformers_weights": "adapter.safetensors",
    "configuration_files": ["config.4.0.0.json"],
    "attribute_map": {"tie_word_embeddings": "x"},
    "sub_configs": {"text_config": "x"},
    "_attn_implementation": "elsewhere/kernel",
    "experts_implementation": {"text_config": "elsewhere/kernel"},
    "extra_files": ["head.safetensors"],
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compression_config": {"quant_method": "compressed-tensors"},
    "fusion_config": {"patch_embeddings": True},
    "tie_encoder_decoder": True,
    "trust_remote_code": True,
    "custom_pipelines": {"x": {"impl": "elsewhere--x.X"}},
}.items():

    @attack(f"41-configuration-with-{key.replace('_', '-')}", only="config_keys")
    def _(world: World, key: str = key, value: Any = value) -> Options:
        configured(world, json.dumps({"model_type": "toy", "text_config": {key: value}}))


@attack("14-configuration-of-another-dtype", only="config_dtype", world=bert_world)
def _(world: World) -> Options:
    """Loaded as float16, every frozen weight is rounded."""
    configured(world, '{"model_type": "bert", "dtype": "float16"}')


@attack("14-configuration-of-another-dtype-by-its-old-name", only="config_dtype", world=bert_world)
def _(world: World) -> Options:
    configured(world, '{"model_type": "bert", "torch_dtype": "bfloat16"}')


@attack("14-no-dtype-and-weights-of-two", only="config_dtype", world=bert_world)
def _(world: World) -> Options:
    """All become what the first one in the file is."""
    world.result_weights["model.safetensors"]["head.b"] = tensor("F16", 2, seed="hb")
    configured(world, '{"model_type": "bert"}')


@attack("14-configurations-of-two-dtypes", only="config_dtype", world=bert_world)
def _(world: World) -> Options:
    """Each release reads one of the two keys."""
    configured(world, '{"model_type": "bert", "dtype": "float32", "torch_dtype": "float16"}')


@attack("14-another-dtype-for-a-class-that-the-reader-names", only="config_dtype")
def _(world: World) -> Options:
    """Without a known model_type, `BertModel.from_pretrained` reads the dtype all the same."""
    configured(world, '{"dtype": "float16"}')


@attack("14-another-dtype-inside", only="config_dtype", world=bert_world)
def _(world: World) -> Options:
    """Older versions make the model inside in the dtype of its own configuration."""
    configured(world, '{"model_type": "bert", "dtype": "float32", "text_config": {"torch_dtype": "float16"}}')


@attack("14-dtype-of-the-few", only="config_dtype")
def _(world: World) -> Options:
    """Of a base in two dtypes, most of the weights are rounded to that of the others."""
    configured(world, '{"model_type": "toy", "dtype": "bfloat16"}')


@attack("14-dtype-in-the-index", only="config_dtype", world=sharded_world)
def _(world: World) -> Options:
    """transformers 5 takes it from the index if the configuration has none."""
    path = world.result / "model.safetensors.index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": {"dtype": "float16"}}))
    world.sign()


def layered_world(root: Path) -> World:
    """The second frozen layer is the thirteenth."""
    world = bert_world(root)
    for tensors, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        weights = tensors["model.safetensors"]
        for name in ("w", "mean"):
            weights[f"{prefix}enc.12.{name}"] = weights.pop(f"{prefix}enc.1.{name}")
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    return world


@attack("16-fewer-layers-by-default", only="layers_loaded", world=layered_world)
def _(world: World) -> Options:
    """The configuration does not say how many layers there are: a BERT has twelve then."""
    configured(world, '{"model_type": "bert", "dtype": "float32"}')


@attack("16-fewer-layers-and-a-key-that-means-nothing", only="layers_loaded", world=bert_world)
def _(world: World) -> Options:
    configured(world, '{"model_type": "bert", "dtype": "float32", "num_hidden_layers": 1, "encoder_layers": 99}')


@attack("16-fewer-layers-than-the-base", only="layers_loaded", levels=(3,), world=bert_world)
def _(world: World) -> Options:
    """The names of what is frozen are no help, such as those of stages or of the other half of a model."""
    (world.base / "config.json").write_text('{"model_type": "bert", "num_hidden_layers": 4}')
    (world.result / "config.json").write_text('{"model_type": "bert", "dtype": "float32", "num_hidden_layers": 3}')
    world.sign()


@attack("16-fewer-layers-than-are-frozen", only="layers_loaded", world=bert_world)
def _(world: World) -> Options:
    """The frozen tensors of the last layer are in the file, and are not loaded."""
    configured(world, '{"model_type": "bert", "dtype": "float32", "num_hidden_layers": 1}')


def same_names_world(root: Path) -> World:
    """The base has its names with the prefix, too."""
    world = bert_world(root)
    weights = world.base_weights["model.safetensors"]
    world.base_weights["model.safetensors"] = {f"bert.{name}": value for name, value in weights.items()}
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    return world


for number, (kind, before, after) in enumerate(
    (
        ("llama", {"attention_bias": True}, {}),
        ("vit", {}, {"qkv_bias": False}),
        ("llama", {}, {"per_layer_config": {"0": {"skip_mlp": True}}}),
        (
            "qwen3_next",
            {"layer_types": ["full_attention"] * 2},
            {"layer_types": ["full_attention", "linear_attention"]},
        ),
        ("qwen3_5", {"text_config": {"attention_bias": True}}, {"text_config": {"attention_bias": False}}),
        ("t5", {"is_gated_act": True, "feed_forward_proj": "gated-gelu"}, {"feed_forward_proj": "relu"}),
        ("t5", {"is_gated_act": True}, {"is_gated_act": False}),
        ("t5", {}, {"feed_forward_proj": "gated-gelu"}),
        ("swin", {}, {"qkv_bias": None}),
        ("wav2vec2", {}, {"feat_extract_norm": "layer"}),
        ("qwen3_next", {"layer_types": ["full_attention"] * 2}, {}),
        ("qwen3_5", {"text_config": {"attention_bias": True}}, {}),
        # What the base lacks, its class takes from other keys; a result may not add something else.
        ("qwen3_next", {"num_hidden_layers": 4}, {"num_hidden_layers": 4, "layer_types": ["full_attention"] * 4}),
        ("qwen3_next", {"num_hidden_layers": 4}, {"num_hidden_layers": 4, "full_attention_interval": 2}),
        ("qwen3_next", {"num_hidden_layers": 4, "full_attention_interval": 2}, {"num_hidden_layers": 4}),
        (
            "deepseek_v32",
            {"num_hidden_layers": 3, "first_k_dense_replace": 2},
            {"num_hidden_layers": 3, "first_k_dense_replace": 2, "mlp_layer_types": ["dense", "sparse", "sparse"]},
        ),
        (
            "lfm2",
            {"num_hidden_layers": 3, "full_attn_idxs": [2]},
            {"num_hidden_layers": 3, "layer_types": ["conv"] * 3},
        ),
        ("llama4_text", {"interleave_moe_layer_step": 24}, {"interleave_moe_layer_step": 24, "moe_layers": [1, 47]}),
        ("t5", {"feed_forward_proj": "gated-gelu"}, {"feed_forward_proj": "gated-gelu", "is_gated_act": False}),
        ("falcon", {}, {"num_ln_in_parallel_attn": 2}),
        ("deberta-v2", {"conv_kernel_size": 3}, {}),
        ("convnext", {}, {"out_features": ["stage1"]}),
        # Single layers, and configurations inside one.
        ("llama", {"per_layer_config": {"0": {"mlp_bias": True}}}, {"per_layer_config": {"0": {"mlp_bias": False}}}),
        (
            "gemma4_text",
            {"num_hidden_layers": 2},
            {"num_hidden_layers": 2, "per_layer_config": {"0": {"enable_moe_block": True}}},
        ),
        ("llava", {}, {"text_config": {"attention_bias": True}}),
        ("llava", {}, {"text_config": {"model_type": "qwen2"}}),
        ("mllama", {"text_config": {}}, {"text_config": {"cross_attention_layers": [38]}}),
        # Numbers, and what only one of a kind's classes reads.
        ("albert", {"inner_group_num": 2}, {}),
        ("beit", {}, {"layer_scale_init_value": 0.0}),
        ("deepseek_v2", {}, {"q_lora_rank": None}),
        ("jamba", {}, {"num_experts": 1}),
        ("musicgen", {}, {"decoder": {"num_codebooks": 1}}),
        ("llama", {}, {"token_classification_bias": False}),
        ("mt5", {}, {"is_decoder": True}),
        ("xcodec", {}, {"target_bandwidths": [0.5]}),
    )
):

    @attack(f"16-class-without-the-frozen-tensors-{number}", only="same_tensors", levels=(3,), world=same_names_world)
    def _(world: World, kind: str = kind, before: Any = before, after: Any = after) -> Options:
        """The configuration turns off what was proved, such as the biases: it is in the file, and not in the model."""
        known = {"model_type": kind}
        (world.base / "config.json").write_text(json.dumps(known | before))
        (world.result / "config.json").write_text(json.dumps(known | {"dtype": "float32"} | after))
        world.sign()


@attack("32-result-of-another-kind", only="same_kind", levels=(3,), world=bert_world)
def _(world: World) -> Options:
    """A class with other names is loaded, from tensors that are all new; those of the base are left out."""
    (world.base / "config.json").write_text('{"model_type": "bert"}')
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    (world.result / "config.json").write_text(json.dumps({"model_type": "megatron-bert", **sizes}))
    world.sign()


@attack("32b-language-model-without-the-frozen-rest", only="same_kind", levels=(3,), world=bert_world)
def _(world: World) -> Options:
    """The language model of a larger model is loaded, and what was proved frozen is in the part that is not."""
    inner = {"model_type": "bert", "dtype": "float32"}
    (world.base / "config.json").write_text(json.dumps({"model_type": "qwen3_5", "text_config": inner}))
    (world.result / "config.json").write_text(json.dumps(inner))
    world.sign()


# Adapters


def adapted(world: World, **config: Any) -> None:
    text = json.dumps({"peft_type": "LORA", "r": 2, "bias": "none", "init_lora_weights": True} | config)
    world.result_files["adapter_config.json"] = text.encode()
    world.write()
    world.sign(world.predicate(rows=adapter_rows(world), result_kind="adapter"))


for number, (key, value) in enumerate(
    (
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", ["pissa"]),
        ("init_lora_weights", "olora"),
        ("bias", "all"),
        ("layer_replication", [[0, 1], [0, 1]]),
        ("loftq_config", {"loftq_bits": 4}),
        ("megatron_config", {"a": 1}),
        ("peft_type", "UNKNOWN"),
        ("peft_type", ["LORA"]),
        ("modules_to_save", True),
        ("modules_to_save", "enc.1"),
        ("kasa_config", {}),
        ("trainable_token_indices", {"emb": [0]}),
        ("tokenizer_kwargs", {"trust_remote_code": True}),
        ("auto_mapping", {"base_model_class": "Toy", "parent_library": "elsewhere.toy"}),
        ("new_in_a_later_peft", True),
    )
):

    @attack(f"33-adapter-that-rewrites-its-base-{number}", only="adapter_config", world=adapter_world)
    def _(world: World, key: str = key, value: Any = value) -> Options:
        adapted(world, **{key: value})


def overlaid(world: World, stored: str, live: str, **config: Any) -> None:
    """Other bytes of the base's shape in the adapter's file, which the signer calls a tensor of the adapter."""
    text = json.dumps({"peft_type": "LORA", "r": 2, "bias": "none", "init_lora_weights": True} | config)
    world.result_files["adapter_config.json"] = text.encode()
    world.result_weights["adapter_model.safetensors"][stored] = tensor("F32", 8, 8, seed="changed")
    world.write()
    reading = readings(world.result)[stored]
    world.policy = {"train": ["**.default.**"]}
    rows = [row for row in adapter_rows(world) if row.result is None or row.result.name != stored]
    rows.append(Row(name=live, role="new", rule="rule-1", initial=reading, result=reading, changed=True))
    rows = [row._replace(name=row.name.removesuffix("_blocks")) for row in rows]  # as codes are called in the model
    world.sign(world.predicate(rows=tuple(sorted(rows, key=row_order)), result_kind="adapter"))


@attack("33-adapter-with-a-tensor-of-the-base", only="only_own", world=adapter_world)
def _(world: World) -> Options:
    """peft loads every tensor of the file that the model has, also where no adapter is."""
    overlaid(world, "base_model.model.enc.1.w", "base_model.model.enc.1.default.w")


@attack("33-adapter-with-the-original-of-a-copied-module", only="only_own", world=adapter_world)
def _(world: World) -> Options:
    """peft keeps a module that it copies under a name of its own, and loads a tensor of that name over it."""
    stored = "base_model.model.enc.1.original_module.w"
    overlaid(world, stored, "base_model.model.enc.1.original_module.default.w", modules_to_save=["enc.1"])


@attack("33-adapter-with-the-prompt-encoder-of-its-base", only="only_own", world=adapter_world)
def _(world: World) -> Options:
    """The base of a SAM has tensors of that name. They are an adapter's own for prompts alone."""
    stored = "base_model.model.prompt_encoder.w"
    overlaid(world, stored, "base_model.model.prompt_encoder.default.w")


for number, name in enumerate(("enc.1.w", "bert.enc.1.w")):

    @attack(f"33-copy-of-a-frozen-module-{number}", only="beside_frozen", world=adapter_world)
    def _(world: World, name: str = name) -> Options:
        """The model computes with the copy, and what was proved is loaded beside it."""
        live = f"base_model.model.{name[:-1]}modules_to_save.default.w"
        overlaid(world, f"base_model.model.{name}", live, modules_to_save=["enc.1"])


@attack("33-head-of-prompts", only="only_own", world=adapter_world)
def _(world: World) -> Options:
    """peft keeps no copy of modules for prompts: older versions load them over the base's."""
    weights = world.result_weights["adapter_model.safetensors"]
    name = next(iter(weights))
    weights["base_model.head.weight"] = weights.pop(name)
    adapted(world, peft_type="PROMPT_TUNING", modules_to_save=["head"])


@attack("22-adapter-of-another-name", only="one_weights_file", world=adapter_world)
def _(world: World) -> Options:
    """peft asks a hub for a repository of the folder's name then."""
    weights = world.result_weights
    (world.result / "adapter_model.safetensors").unlink()
    weights["adapter_weights.safetensors"] = weights.pop("adapter_model.safetensors")
    adapted(world)


@attack("22-second-file-of-an-adapter", only="one_weights_file", world=adapter_world)
def _(world: World) -> Options:
    half = world.result_weights["adapter_model.safetensors"].popitem()
    world.result_weights["adapter_more.safetensors"] = dict([half])
    world.write()
    world.sign(world.predicate(rows=adapter_rows(world), result_kind="adapter"))


# Two tensors for one place


for number, name in enumerate(
    (
        "enc.0.w",  # without the prefix of the base model
        "bert.bert.enc.0.w",  # with the prefix twice
        "bert_enc.0.w",  # transformers removes `^bert.` as a regular expression, and a dot is any character
    )
):

    @attack(f"33-prefix-of-the-base-model-{number}", only="one_place", levels=(1, 2, 3))
    def _(world: World, name: str = name) -> Options:
        add(world, name)


def norm_world(root: Path) -> World:
    """The frozen tensors have names that older versions spelled in another way."""
    world = World(root)
    old = {"enc.0.w": "enc.0.LayerNorm.weight", "enc.1.w": "enc.0.conv.parametrizations.weight.original0"}
    for tensors, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        weights = tensors["model.safetensors"]
        for name, renamed in old.items():
            weights[prefix + renamed] = weights.pop(prefix + name)
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    return world


for number, name in enumerate(
    ("bert.enc.0.LayerNorm.gamma", "enc.0.LayerNorm.gamma", "bert.enc.0.conv.weight_g", "enc.0.conv.weight_g")
):

    @attack(f"33-old-name-beside-the-new-one-{number}", only="one_place" if number % 2 else None, world=norm_world)
    def _(world: World, name: str = name) -> Options:
        add(world, name)


@attack("33-old-spelling-inside-a-name", only="one_place")
def _(world: World) -> Options:
    """Versions before 4.50 replaced `gamma` and `beta` anywhere in a name."""
    for weights, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        tensors = weights["model.safetensors"]
        tensors[f"{prefix}enc.0.in_proj_weight"] = tensors.pop(f"{prefix}enc.0.w")
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    add(world, "enc.0.in_proj_gamma")


@attack("33-parts-beside-the-joined-tensor", only="one_place")
def _(world: World) -> Options:
    """Mixtral's experts are joined while loading; here the joined tensor is stored as well, and is the frozen one."""
    for weights, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        tensors = weights["model.safetensors"]
        tensors[f"{prefix}enc.0.mlp.experts.gate_up_proj"] = tensors.pop(f"{prefix}enc.0.w")
    part = "bert.enc.0.mlp.experts.0.w1.weight"
    world.result_weights["model.safetensors"][part] = tensor("F32", 4, 8, seed="part")
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    policy = {"freeze": ["bert.enc.0.mlp.experts.gate_up_proj", "bert.enc.0.b"]}
    world.policy = policy
    world.sign()


@attack("33-all-names-under-a-prefix-that-nothing-knows", only="known_prefix", world=bert_world)
def _(world: World) -> Options:
    """The frozen tensors are stored where no class looks, and others take their places."""
    tensors = world.result_weights["model.safetensors"]
    hidden = {name: value for name, value in tensors.items() if name.startswith("bert.")}
    decoys = {name: (dtype, shape, flipped(data)) for name, (dtype, shape, data) in hidden.items()}
    tensors |= {name.replace("bert.", "xx.", 1): value for name, value in hidden.items()} | decoys
    world.write()
    world.policy = {"freeze": ["xx.enc.**"]}
    base, made = readings(world.base), []
    for row in world.rows():
        own = row.result.name if row.result else ""
        if own.startswith("xx."):
            paired = row._replace(base=base[own.removeprefix("xx.")], initial=None)
            made.append(paired._replace(role="frozen" if ".enc." in own else "trainable"))
        elif own.startswith("bert."):
            made.append(row._replace(base=None, role="new", initial=row.result, mechanism=None, rule="default"))
        else:
            made.append(row)
    frozen: dict[str, Any] = {"rule": "rule-1", "mechanism": "requires_grad"}
    rows = [row._replace(**frozen) if row.role == "frozen" and row.kind == "parameter" else row for row in made]
    world.sign(world.predicate(rows=honest_flags(rows)))


def honest_flags(rows: list[Row]) -> tuple[Row, ...]:
    """Roles, rules and flags as they follow from the policy of `xx.enc.**`."""
    made = []
    for row in rows:
        if row.kind == "buffer" and row.role == "frozen":
            row = row._replace(rule="rule-1", mechanism=None)
        changed = row.result is not None and (row.base is None or not row.base.same(row.result))
        made.append(row._replace(changed=changed))
    return tuple(made)


@attack("33-part-that-moves-the-frozen-ones", only="all_parts", world=fused_world)
def _(world: World) -> Options:
    """Parts are joined in the order of their numbers: a new one in between moves the frozen ones to other rows."""
    stored = "bert.mlp.experts.00.w1.weight"
    world.result_weights["model.safetensors"][stored] = tensor("F32", 2, 4, seed="other")
    world.write()
    kept = [row._replace(shape=(6, 4)) if row.part else row for row in fused_rows(world) if row.name != stored]
    reading = readings(world.result)[stored]
    part = next(row for row in kept if row.part)
    kept.append(part._replace(role="new", part=(4, 6), base=None, result=reading, changed=True))
    world.sign(world.predicate(rows=tuple(kept)))


@attack("16-tied-weights-with-other-bytes", only="ties", world=bert_world)
def _(world: World) -> Options:
    """The signer calls them two tensors; transformers 4 loads the embedding into both."""
    names = {"emb.weight": "embeddings.word_embeddings.weight"}
    for weights, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        tensors = weights["model.safetensors"]
        for old, new in names.items():
            tensors[prefix + new] = tensors.pop(prefix + old)
        tensors["cls.predictions.decoder.weight"] = tensor("F32", 8, 4, seed="decoder")
    world.policy = {"freeze": ["bert.enc.**", "cls.predictions.decoder.weight"]}
    world.write()
    world.pinned = total(base_readings(world.rows())).root
    world.sign()


@attack("16-tied-inside", only="ties", world=bert_world)
def _(world: World) -> Options:
    """The outer configuration ties nothing; transformers 4 goes by that of the text model."""
    retied(world, {"": "lm_head.weight", "emb.weight": "language_model.model.embed_tokens.weight"})
    text = {"model_type": "llama", "tie_word_embeddings": True}
    configured(world, json.dumps({"model_type": "llava", "tie_word_embeddings": False, "text_config": text}))


@attack("16-copy-of-a-tie-alone", only="ties", world=bert_world)
def _(world: World) -> Options:
    """The name that transformers 4 ties from is missing: it loads neither."""
    retied(world, {"pooler.w": "lm_head.weight"})
    configured(world, '{"model_type": "llama", "tie_word_embeddings": true, "dtype": "float32"}')


def retied(world: World, names: dict[str, str]) -> None:
    """Base and result with tensors of these new names; lm_head.weight is new, or is what was renamed; and frozen."""
    for weights, prefix in ((world.base_weights, ""), (world.result_weights, "bert.")):
        tensors = weights["model.safetensors"]
        for name in [name for name in tensors if name.startswith(prefix)]:
            plain = name.removeprefix(prefix)
            tensors[names.get(plain, plain)] = tensors.pop(name)
        if "" in names:
            tensors["lm_head.weight"] = tensor("F32", 8, 4, seed="head")
        else:
            tensors["lm_head.weight"] = base_tensors()["pooler.w"]
    world.policy = {"freeze": ["enc.**", "lm_head.weight"]}
    world.write()
    world.pinned = total(base_readings(world.rows())).root


# The smaller ones of the same audit


for number, name in enumerate(
    ("adapter_config.json", "model.safetensors.index.json", "tokenizer.json", "pytorch_model.bin", "evidence.json")
):

    @attack(f"41-attestation-that-a-loader-reads-{number}", only="attestation_name")
    def _(world: World, name: str = name) -> Options:
        sealed = world.sign()
        world.attestation = world.result / name
        world.publish(sealed)


@attack("21-link-to-itself")
def _(world: World) -> Options:
    world.sign()
    (world.result / "config.json").unlink()
    (world.result / "config.json").symlink_to("config.json")


@attack("30-intervals-of-a-tensor-without-a-schedule", only="intervals_belong")
def _(world: World) -> Options:
    """Any number of steps, about a tensor that has none."""
    spans = next(row.intervals for row in scheduled_rows(world) if row.intervals)
    world.sign(world.predicate(rows=forged(world.rows(), "head.w", intervals=spans)))
