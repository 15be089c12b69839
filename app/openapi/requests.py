"""Requests for the OpenAPI page: to try, and each one that the service takes as it stands, given its files."""

from typing import Any, Final

_AFFINE: Final = {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}}


def _job(summary: str, description: str, **value: Any) -> dict[str, Any]:
    example = {"training_file": "file-5f0c1d2e3a4b5c6d7e8f9a0b", "seed": 42, **value}
    return {"summary": summary, "description": description, "value": example}


#: To try from the page, which puts a small table in the place of their file; the first three freeze the same weight
#: by the field's three mechanisms.
JOB_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "requires_grad": _job(
        "Freeze `weight` with requires_grad",
        "The attribute is false: autograd computes no gradient for it.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "mechanism": "requires_grad"},
    ),
    "detach": _job(
        "Freeze `weight` with detach()",
        "It takes part in the forward pass through `detach()`; gradient still flows to earlier layers.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "mechanism": "detach"},
    ),
    "param_group": _job(
        "Freeze `weight` by leaving it out of the optimizer",
        "It is in none of the optimizer's parameter groups.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "mechanism": "param_group"},
    ),
    "dry_run": _job(
        "Only look: what would become of it",
        "Checks the request, the files and the policy, previews the plan and estimates time and memory. No job.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"]},
        dry_run=True,
    ),
    "audit": _job(
        "The mistake: `requires_grad` as a group option",
        "Optimizers accept this key and ignore it. With `enforce: false` the job runs; its evidence says `violated`.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"], "enforce": False, "on_violation": "continue"},
        hyperparameters={
            "optimizer": {
                "name": "sgd",
                "groups": [
                    {"select": {"name": "weight"}, "options": {"requires_grad": False}},
                    {"select": {"name": "bias"}, "options": {"lr": 0.01}},
                ],
            }
        },
    ),
    "encoder": _job(
        "A text classifier over a frozen encoder",
        "The encoder stays as it is, its buffers too; only the head trains.",
        model={"type": "transformers", "path": "minilm", "task": "text-classification"},
        freeze_policy={"freeze": ["bert.**"]},
        hyperparameters={"n_epochs": 5, "batch_size": 32},
        suffix="docs",
        metadata={"team": "search"},
    ),
    "layers": _job(
        "Rules: the first four layers and the embeddings",
        "Ordered rules, first match wins; `expect` refuses the job if a rule does not decide what its author believes.",
        model="minilm",
        freeze_policy={
            "default": "train",
            "rules": [
                {
                    "id": "encoder",
                    "action": "freeze",
                    "select": {"layers": {"path": "bert.encoder.layer", "first": 4}},
                    "expect": {"tensors": 64},
                },
                {
                    "id": "embeddings",
                    "action": "freeze",
                    "mechanism": "detach",
                    "select": {"name": "bert.embeddings.**"},
                },
            ],
        },
    ),
}

_ENCODER: Final = {"type": "transformers", "path": "minilm"}
_DECODER: Final = {"type": "transformers", "path": "smollm"}

#: One of each task; docs/training.md has their files.
TASK_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "causal-lm": _job(
        "Chats, with packing",
        'Lines of {"messages": [...]}: the assistant\'s answers are learned, behind frozen first layers.',
        model=_DECODER,
        freeze_policy={"freeze": ["model.layers.0.**"]},
        hyperparameters={"n_epochs": 2, "packing": True, "max_length": 2048},
    ),
    "preference": _job(
        "Preferences, by DPO",
        'Lines of {"prompt", "chosen", "rejected"}, or of OpenAI\'s shape. The reference is the base itself.',
        model=_DECODER,
        freeze_policy={"train": ["model.layers.1.**"]},
        method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 1}}},
    ),
    "text-regression": _job(
        "Numbers for texts",
        'Lines of {"text", "label"} with a number as label.',
        model=_ENCODER,
        task="text-regression",
        freeze_policy={"freeze": ["bert.embeddings.**"]},
        hyperparameters={"validation_fraction": 0.1, "early_stopping_patience": 3},
    ),
    "token-classification": _job(
        "Labels for words",
        'Lines of {"tokens": [...], "labels": [...]}; hidden matrices by Muon.',
        model=_ENCODER,
        task="token-classification",
        freeze_policy={"freeze": ["bert.embeddings.**"], "mechanism": "detach"},
        hyperparameters={"optimizer": {"name": "muon"}},
    ),
    "pairs": _job(
        "Embeddings",
        'Lines of {"anchor", "positive"}: every other positive of the batch is a negative.',
        model=_ENCODER,
        task="pairs",
        freeze_policy={"freeze": ["embeddings.**"]},
        hyperparameters={"batch_size": 64, "temperature": 0.05},
    ),
    "image-classification": _job(
        "Pictures",
        "Parquet with `image` (bytes) and `label`, or JSONL with base64; frozen BatchNorm keeps its statistics, too.",
        model={"type": "torch", "architecture": "convnet", "kwargs": {"num_classes": 2}, "task": "classification"},
        freeze_policy={"freeze": ["features.**"]},
    ),
    "tabular-classification": _job(
        "A table",
        "CSV or Parquet; the columns are named, or the last one is the target.",
        model={
            "type": "torch",
            "architecture": "mlp",
            "kwargs": {"in_features": 2, "out_features": 2},
            "task": "classification",
        },
        data={"features": ["width", "height"], "target": "kind"},
        freeze_policy={"freeze": ["0.weight"]},
    ),
}

#: One of each thing that a model spec or a job may say besides.
OPTION_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "hub": _job(
        "A model of a hub",
        "A worker fetches it, pinned to the commit; the answer says which. Safetensors only, no code.",
        model={
            "type": "transformers",
            "path": "sentence-transformers/all-MiniLM-L6-v2",
            "revision": "c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            "task": "text-classification",
        },
        freeze_policy={"freeze": ["bert.**"]},
    ),
    "lora": _job(
        "LoRA",
        "Low-rank matrices beside the base, which stays frozen whole, with proof. The result is in peft's format.",
        model={**_DECODER, "task": "causal-lm", "adapter": {"type": "lora", "r": 16, "alpha": 32, "dropout": 0.05}},
    ),
    "lora-merged": _job(
        "LoRA, merged",
        "The adapter is added into the base's weights, which are then changed: the evidence says which.",
        model={
            **_DECODER,
            "task": "causal-lm",
            "adapter": {"type": "lora", "target_modules": ["q_proj", "v_proj"], "use_rslora": True, "merge": True},
        },
    ),
    "ia3": _job(
        "IA3",
        "Trained factors on some layers' outputs: far fewer numbers than LoRA has.",
        model={**_DECODER, "task": "causal-lm", "adapter": {"type": "ia3"}},
    ),
    "prompt-tuning": _job(
        "Prompt tuning",
        "Trained vectors in front of every text; the model itself stays as it is.",
        model={
            **_DECODER,
            "task": "causal-lm",
            "adapter": {"type": "prompt_tuning", "num_virtual_tokens": 16},
        },
    ),
    "new-tokens": _job(
        "New tokens, the old rows frozen",
        "The tokenizer and the embeddings grow; of the encoder only the new rows train.",
        model={**_ENCODER, "task": "text-classification", "new_tokens": ["<query>", "<passage>"]},
        freeze_policy={
            "rules": [
                {
                    "id": "new",
                    "action": "train",
                    "select": {"name": "bert.embeddings.word_embeddings.weight", "rows": [[30522, 30524]]},
                },
                {"id": "old", "action": "freeze", "select": {"name": "bert.**"}},
            ]
        },
    ),
    "devices": _job(
        "Two devices",
        "The same examples in a step as on one, and the same evidence. `fsdp` for models larger than a device.",
        model={"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 2, "out_features": 2}},
        resources={"devices": 2, "strategy": "ddp"},
    ),
    "compile": _job(
        "torch.compile",
        "Compiled in place; where that cannot be, the job says so before its first update.",
        model={"type": "torch", "architecture": "mlp", "kwargs": {"in_features": 2, "out_features": 2}},
        hyperparameters={"compile": True, "n_epochs": 20},
    ),
    "controls": _job(
        "Bounds and labels",
        "Goes before others; ends after an hour with what it has; may crash once; is found by its tags.",
        model=_AFFINE,
        freeze_policy={"freeze": ["weight"]},
        priority=10,
        max_run_seconds=3600,
        retries=1,
        metadata={"team": "search"},
        tags=["nightly"],
        evidence={"overhead_budget": 0.02, "nonce": "2026-11-25"},
    ),
}

PREVIEW_EXAMPLES: Final = {
    "affine": {
        "summary": "One frozen weight",
        "value": {"model": _AFFINE, "freeze_policy": {"freeze": ["weight"], "mechanism": "detach"}},
    },
    "encoder": {
        "summary": "A frozen encoder under a new head of four classes",
        "value": {
            "model": {"type": "transformers", "path": "minilm", "task": "text-classification", "num_labels": 4},
            "freeze_policy": {"freeze": ["bert.**"]},
        },
    },
}
