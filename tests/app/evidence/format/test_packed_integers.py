"""Which configurations of GPTQ and AWQ are read, and how they have codes decoded."""

from typing import Any

import pytest

from app.evidence.format.block_scaled import Decoding
from app.evidence.format.packed_integers import PackedFormError, decoding_of

#: As AutoGPTQ, GPTQModel and AutoAWQ write them.
AUTO_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True, "damp_percent": 0.1}
GPTQ_MODEL = {
    "quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False, "sym": False, "lm_head": False,
    "checkpoint_format": "gptq_v2", "pack_dtype": "int32", "dynamic": None, "meta": {"quantizer": ["gptqmodel:2.0.0"]},
}  # fmt: skip
AUTO_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "GEMM"}


def test_forms_that_are_read() -> None:
    """The first form of GPTQ has zero points less one."""
    assert decoding_of(AUTO_GPTQ, "gptq") == Decoding("gptq", bits=4, group=128, offset=1)
    assert decoding_of(GPTQ_MODEL, "gptq") == Decoding("gptq", bits=8, group=-1, offset=0)
    assert decoding_of(AUTO_AWQ, "awq") == Decoding("awq", bits=4, group=128, offset=0)


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
        (GPTQ_MODEL, {"dynamic": {"-:.*down.*": {}}}, "dynamic is"),
        (GPTQ_MODEL, {"pack_dtype": "int64"}, "pack_dtype is 'int64'"),
        (GPTQ_MODEL, {"rotation": "hadamard"}, "rotation is 'hadamard'"),
        (AUTO_AWQ, {"bits": 8}, "bits are 8, and 4 are read"),
        (AUTO_AWQ, {"version": "gemv"}, "version is 'gemv', and gemm is read"),
        (AUTO_AWQ, {"zero_point": False}, "zero_point is False"),
        (AUTO_AWQ, {"shuffled": True}, "unknown key 'shuffled'"),
    ],
)
def test_forms_that_are_not_read_are_named(config: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(PackedFormError) as refused:
        decoding_of({**config, **changes}, str(config["quant_method"]))
    assert says in str(refused.value)
