"""Which configurations of GPTQ and AWQ are read, and how they have codes decoded."""

from typing import Any

import pytest

from app.evidence.format.block_scaled import Decoding
from app.evidence.format.packed_integers import PackedFormError, decodings_of

#: As AutoGPTQ, GPTQModel and AutoAWQ write them.
AUTO_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.1}
GPTQ_MODEL = {
    "quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False, "sym": False, "lm_head": False,
    "checkpoint_format": "gptq_v2", "pack_dtype": "int32", "dynamic": None, "meta": {"quantizer": ["gptqmodel:2.0.0"]},
}  # fmt: skip
#: As Intel publishes models.
AUTO_ROUND = {
    "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True, "true_sequential": False,
    "damp_percent": 0.01, "autoround_version": "0.5.1", "amp": True, "batch_size": 8, "data_type": "int",
    "act_bits": 16, "act_data_type": "int", "act_dynamic": True, "act_group_size": 128, "act_sym": True, "lr": 0.001,
    "enable_minmax_tuning": True, "enable_norm_bias_tuning": False, "enable_quanted_input": True, "nsamples": 512,
    "gradient_accumulate_steps": 1, "iters": 1000, "low_gpu_mem_usage": True, "minmax_lr": 0.001, "seqlen": 2048,
    "scale_dtype": "torch.float16", "super_bits": None, "super_group_size": None, "to_quant_block_names": None,
}  # fmt: skip
AUTO_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "GEMM"}


def test_forms_that_are_read() -> None:
    """The first form of GPTQ has zero points less one."""
    assert decodings_of(AUTO_GPTQ, "gptq") == (Decoding("gptq", bits=4, group=128, offset=1),)
    assert decodings_of(AUTO_ROUND, "gptq") == decodings_of(AUTO_GPTQ, "gptq")
    assert decodings_of(GPTQ_MODEL, "gptq") == (Decoding("gptq", bits=8, group=-1, offset=0),)
    assert decodings_of(AUTO_AWQ, "awq") == (Decoding("awq", bits=4, group=128, offset=0),)


def test_rules_for_some_modules() -> None:
    """As Qwen and GPTQModel publish them: modules that stay plain, empty rules, and other bits or groups."""
    qwen = {"lm_head": {}, "model.language_model.embed_tokens": True, "-:.*attn.*": {}, "-:.*mtp.*": {}}
    assert decodings_of({**AUTO_GPTQ, "dynamic": qwen}, "gptq") == decodings_of(AUTO_GPTQ, "gptq")
    mixed = {"+:.*lm_head$": {"bits": 8}, ".*down_proj": {"bits": 8, "group_size": 32, "sym": False}}
    assert decodings_of({**AUTO_GPTQ, "dynamic": mixed}, "gptq") == (
        Decoding("gptq", bits=4, group=128, offset=1),
        Decoding("gptq", bits=8, group=128, offset=1),
        Decoding("gptq", bits=8, group=32, offset=1),
    )
    assert decodings_of({**AUTO_AWQ, "dynamic": qwen}, "awq") == decodings_of(AUTO_AWQ, "awq")


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (AUTO_GPTQ, {"bits": 3}, "bits are 3, and 4 or 8 are read"),
        (AUTO_GPTQ, {"bits": None}, "bits are None"),
        (AUTO_GPTQ, {"bits": True}, "bits are True"),
        (AUTO_GPTQ, {"group_size": 0}, "group_size is 0"),
        (AUTO_GPTQ, {"group_size": "128"}, "has to be a number of inputs"),
        (AUTO_GPTQ, {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin', and gptq or gptq_v2 is read"),
        (GPTQ_MODEL, {"format": "gptq"}, "say different things: gptq, gptq_v2"),
        (GPTQ_MODEL, {"dynamic": ["-:.*down.*"]}, "dynamic has to be an object of 10,000 rules"),
        (GPTQ_MODEL, {"dynamic": {"+:.*down.*": {"bits": 3}}}, "bits are 3, and 4 or 8 are read"),
        (GPTQ_MODEL, {"dynamic": {".*down.*": {"format": "marlin"}}}, "'.*down.*' of dynamic changes 'format'"),
        (AUTO_AWQ, {"dynamic": {".*down.*": {"group_size": 32}}}, "changes group_size, read of gptq alone"),
        (GPTQ_MODEL, {"pack_dtype": "int64"}, "pack_dtype is 'int64'"),
        (GPTQ_MODEL, {"rotation": "hadamard"}, "rotation is 'hadamard'"),
        (AUTO_ROUND, {"act_bits": 8}, "act_bits is 8"),
        (AUTO_ROUND, {"data_type": "mx_fp"}, "data_type is 'mx_fp'"),
        (AUTO_AWQ, {"bits": 8}, "bits are 8, and 4 are read"),
        (AUTO_AWQ, {"version": "gemv"}, "version is 'gemv', and gemm is read"),
        (AUTO_AWQ, {"zero_point": False}, "zero_point is False"),
        (AUTO_AWQ, {"shuffled": True}, "unknown key 'shuffled'"),
    ],
)
def test_forms_that_are_not_read_are_named(config: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PackedFormError) as refused:
        decodings_of({**config, **changes}, str(config["quant_method"]))
    assert says in str(refused.value)
