"""Payloads of freeze policies, with descriptions and examples for OpenAPI. `policy.py` validates them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.freeze.policy import Policy
from app.jsontypes import JsonDict

Mechanism = Literal["requires_grad", "detach", "param_group"]
Action = Literal["freeze", "train"]
Part = Literal["vision_tower", "projector", "language_model", "text_tower"]
Preset = Literal[
    "vision_tower", "projector", "language_model", "text_tower", "llava-stage-1", "llava-stage-2", "lora-language-model"
]
Patterns = str | list[str]
Rows = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]

# What the OpenAPI page offers to try, by name. docs/freeze-policy.md explains each.
EXAMPLES: dict[str, JsonDict] = {
    "head only": {"train": ["classifier.**"]},
    "frozen by requires_grad": {"freeze": ["bert.**"], "mechanism": "requires_grad"},
    "frozen by detach": {"freeze": ["bert.**"], "mechanism": "detach"},
    "frozen by param_group": {"freeze": ["bert.**"], "mechanism": "param_group"},
    "first N layers": {
        "rules": [
            {"id": "embeddings", "action": "freeze", "select": {"module": "bert.embeddings"}},
            {
                "id": "lower-layers",
                "action": "freeze",
                "select": {"layers": {"path": "bert.encoder.layer", "first": 4}},
                "expect": {"tensors": 64},
            },
        ]
    },
    "LayerNorm only": {
        "default": "freeze",
        "rules": [
            {"id": "norms", "action": "train", "select": {"module_type": "LayerNorm"}},
            {"id": "head", "action": "train", "select": {"module": "classifier"}},
        ],
    },
    "biases only (BitFit)": {"train": ["**.bias", "classifier.**"]},
    "gradual unfreezing": {
        "rules": [
            {
                "id": "lower",
                "action": "freeze",
                "select": {"layers": {"path": "bert.encoder.layer", "first": 3}},
                "when": [{"from_step": 0, "to_step": 200}],
            },
            {
                "id": "upper",
                "action": "freeze",
                "select": {"layers": {"path": "bert.encoder.layer", "from": 3}},
                "when": [{"from_step": 0, "to_step": 100}],
            },
            {"id": "embeddings", "action": "freeze", "select": {"module": "bert.embeddings"}},
        ]
    },
    "old vocabulary rows frozen": {
        "default": "freeze",
        "rules": [
            {
                "id": "new-tokens",
                "action": "train",
                "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[30522, 30530]]},
            },
            {"id": "head", "action": "train", "select": {"module": "classifier"}},
        ],
    },
    "LoRA over a frozen base": {"train": ["**.lora_*.**"]},
    "everything but embeddings": {"freeze": ["bert.embeddings.**"]},
    "a BatchNorm backbone": {
        "default": "freeze",
        "rules": [{"id": "head", "action": "train", "select": {"module": "head"}}],
        "buffers": "pin",
    },
    "audit": {"freeze": ["bert.**"], "enforce": False},
}


class _PolicyPart(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LayerRange(_PolicyPart):
    """Some of the numbered children of a module: `first` n, `last` n, or `from` to `to` (not included)."""

    path: str = Field(description="The module whose children are numbered, such as `bert.encoder.layer`.")
    first: int | None = Field(None, ge=1)
    last: int | None = Field(None, ge=1)
    start: int | None = Field(None, ge=0, alias="from")
    stop: int | None = Field(None, ge=1, alias="to")


class TensorSelector(_PolicyPart):
    """Which tensors. Selectors given together must all match; of the patterns in one list any may."""

    name: Patterns | None = Field(
        None, description="Glob over the whole name: `*` is one segment or a part of one, `**` any number of segments."
    )
    regex: Patterns | None = Field(None, description="Regular expression over the whole name; never a substring.")
    module: Patterns | None = Field(None, description="A module's path (or a glob of paths): all tensors under it.")
    module_type: Patterns | None = Field(
        None, description="Class name of an enclosing module, plain (`LayerNorm`) or dotted."
    )
    layers: LayerRange | None = None
    kind: Literal["parameter", "buffer"] | None = None
    part: Part | list[Part] | None = Field(
        None, description="A part of a vision-language model, by whatever its family calls it."
    )
    rows: list[Rows] | None = Field(
        None, min_length=1, description="Half-open ranges of dimension 0. The other rows go on to the rules below."
    )


class Expectation(_PolicyPart):
    """What the rule's author believes that it decides; a miss is an error."""

    tensors: int | None = Field(None, ge=1)
    elements: int | None = Field(None, ge=1)


class StepInterval(_PolicyPart):
    """Frozen for every optimizer update with from_step < step <= to_step; null means to the end of the run."""

    from_step: int = Field(0, ge=0)
    to_step: int | None = Field(ge=1)


class FreezeRule(_PolicyPart):
    """One decision for all tensors that it selects and that no rule above has decided."""

    id: str | None = Field(None, max_length=64, description="Unique; `rule-1`, `rule-2`, ... when left out.")
    action: Action
    mechanism: Mechanism | None = Field(None, description="How to freeze; the policy's `mechanism` when left out.")
    select: TensorSelector
    expect: Expectation | None = None
    when: list[StepInterval] | None = Field(
        None, min_length=1, description="Freeze in these steps only; the tensors train in all others."
    )


class FreezePolicy(_PolicyPart):
    """Which parameters and buffers must not change. Ordered rules, first match wins; `default` covers the rest.

    The short form is one list of name globs: `freeze` (the rest trains) or `train` (the rest is frozen). A `preset` is
    a policy by name for a vision-language model, whose parts have other names in each family.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": list(EXAMPLES.values())})

    default: Action = "train"
    rules: list[FreezeRule] = Field([], max_length=1000)
    freeze: Patterns | None = Field(None, description="Short form: freeze these, train the rest.")
    train: Patterns | None = Field(None, description="Short form: train these, freeze the rest.")
    preset: Preset | None = Field(
        None, description="A policy by name, for vision-language models; in place of rules and short forms."
    )
    mechanism: Mechanism = Field(
        "requires_grad", description="How the default and the rules without a mechanism freeze."
    )
    buffers: Literal["pin", "track"] = Field(
        "pin", description="`pin` freezes the buffers of frozen modules (BatchNorm statistics); `track` lets them move."
    )
    on_violation: Literal["abort", "continue"] = Field(
        "abort",
        description="Whether a frozen tensor that moves ends the job; the default is `continue` in an audit.",
    )
    enforce: bool = Field(True, description="false: declare only, so that the evidence says what moved (audit).")

    @model_validator(mode="before")
    @classmethod
    def _meaningful(cls, value: Any) -> Any:
        """Validates with policy.py alone. Its PolicyError passes through pydantic and keeps its param and code."""
        if isinstance(value, cls):
            return value
        Policy.from_json(value)
        return {key: item for key, item in value.items() if item is not None}

    def normal(self) -> Policy:
        """The policy in its normal form."""
        return Policy.from_json(self.model_dump(by_alias=True, exclude_unset=True))

    @classmethod
    def of(cls, policy: Policy | Mapping[str, Any]) -> "FreezePolicy":
        """The normal form of a stored policy, for a response."""
        return cls.model_validate(policy.to_json() if isinstance(policy, Policy) else policy)


class Counts(BaseModel):
    tensors: int
    elements: int
    bytes: int


class FreezePlanCounts(BaseModel):
    frozen: Counts
    trainable: Counts


def json_schema() -> JsonDict:
    """The published JSON schema of a freeze policy."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **FreezePolicy.model_json_schema()}
