"""Requests for jobs that are refused: what is changed in a good request, and the `param` and `code` of the answer."""

from typing import Any

from tests.app.conftest import AFFINE

JSON = {"content-type": "application/json"}

TORCH = {"type": "torch", "architecture": "affine"}

SGD = {"name": "sgd", "groups": [{"select": {"name": "weight"}, "options": {"requires_grad": False}}]}


def nested(levels: int) -> list[Any]:
    inner: list[Any] = []
    for _ in range(levels):
        inner = [inner]
    return inner


#: What a group of an optimizer may not say: optimizer, group -> where, code. Each broke the trainer, three times over.
BAD_GROUPS: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("a word as rate", "sgd", {"options": {"lr": "x"}}, ".options.lr", "invalid_value"),
    ("no rate", "sgd", {"options": {"lr": None}}, ".options.lr", "invalid_value"),
    ("a negative rate", "sgd", {"options": {"lr": -1}}, ".options.lr", "invalid_value"),
    ("an endless rate", "sgd", {"options": {"lr": float("inf")}}, ".options", "invalid_value"),
    ("a huge rate", "sgd", {"options": {"lr": 10**400}}, ".options", "invalid_value"),
    ("nesting", "sgd", {"options": {"lr": nested(300)}}, ".options", "invalid_value"),
    ("a word as momentum", "sgd", {"options": {"momentum": "much"}}, ".options.momentum", "invalid_value"),
    ("no momentum", "sgd", {"options": {"momentum": None}}, ".options.momentum", "invalid_value"),
    ("one beta", "adamw", {"options": {"betas": [0.9]}}, ".options.betas", "invalid_value"),
    ("two epsilons", "adamw", {"options": {"eps": [0.1, 0.1]}}, ".options.eps", "invalid_value"),
    ("an unknown selector", "sgd", {"select": {"nmae": "bias"}, "options": {}}, ".select.nmae", "invalid_request"),
    ("an unknown name", "sgd", {"select": {"name": "bais"}, "options": {}}, ".select.name", "invalid_request"),
    ("a frozen tensor", "sgd", {"select": {"name": "weight"}, "options": {}}, "", "invalid_request"),
]


# What is changed in a good request -> param and code of the refusal.
BAD_JOBS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown field": ({"sed": 1}, "sed", "unknown_field"),
    "unknown hyperparameter": ({"hyperparameters": {"lr": 0.1}}, "hyperparameters.lr", "unknown_field"),
    "text for a number": ({"hyperparameters": {"n_epochs": "3"}}, "hyperparameters.n_epochs", "invalid_value"),
    "no epochs": ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "invalid_value"),
    "true for a number": ({"seed": True}, "seed", "invalid_value"),
    "negative seed": ({"seed": -1}, "seed", "invalid_value"),
    "long suffix": ({"suffix": "x" * 65}, "suffix", "invalid_value"),
    "suffix with a slash": ({"suffix": "a/b"}, "suffix", "invalid_value"),
    "metadata of numbers": ({"metadata": {"a": 1}}, "metadata.a", "invalid_value"),
    "too much metadata": ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
    "integrations": ({"integrations": [{"type": "wandb"}]}, "integrations", "invalid_value"),
    "reinforcement": ({"method": {"type": "reinforcement"}}, "method.type", "invalid_value"),
    "unknown model": ({"model": "gpt-4o-mini"}, "model", "model_not_found"),
    "number as model": ({"model": 5}, "model", "invalid_value"),
    "unknown kind of model": ({"model": {"type": "onnx"}}, "model", "invalid_value"),
    "spec without architecture": ({"model": {"type": "torch"}}, "model.architecture", "missing_field"),
    "unknown architecture": (
        {"model": {**AFFINE, "architecture": "afine"}},
        "model.architecture",
        "unknown_architecture",
    ),
    "missing kwargs": ({"model": TORCH}, "model.kwargs.in_features", "invalid_model"),
    "kwargs of another type": (
        {"model": {**TORCH, "kwargs": {"in_features": "2"}}},
        "model.kwargs.in_features",
        "invalid_model",
    ),
    "unknown kwargs": (
        {"model": {**TORCH, "kwargs": {"in_features": 2, "out_features": 1, "bias": False}}},
        "model.kwargs.bias",
        "invalid_model",
    ),
    "path out of the folder": (
        {"model": {"type": "transformers", "path": "../../etc"}},
        "model.path",
        "model_not_found",
    ),
    "unknown weights": ({"model": {**AFFINE, "weights": "file-none"}}, "model.weights", "not_found"),
    "unknown file": ({"training_file": "file-none"}, "training_file", "not_found"),
    "unknown validation file": ({"validation_file": "file-none"}, "validation_file", "not_found"),
    "policy of another type": ({"freeze_policy": [1]}, "freeze_policy", "invalid_freeze_policy"),
    "unknown selector": (
        {"freeze_policy": {"rules": [{"action": "freeze", "select": {"nmae": "weight"}}]}},
        "freeze_policy.rules[0].select.nmae",
        "invalid_freeze_policy",
    ),
    "unknown mechanism": (
        {"freeze_policy": {"freeze": ["weight"], "mechanism": "lr0"}},
        "freeze_policy.mechanism",
        "invalid_freeze_policy",
    ),
    "policy that matches nothing": (
        {"freeze_policy": {"freeze": ["wieght"]}},
        "freeze_policy.freeze",
        "invalid_freeze_policy",
    ),
    "policy that freezes everything": ({"freeze_policy": {"freeze": ["**"]}}, "freeze_policy", "invalid_freeze_policy"),
    "optimizer by its name alone": (
        {"hyperparameters": {"optimizer": "sgd"}},
        "hyperparameters.optimizer",
        "invalid_value",
    ),
    "ignored option": (
        {"hyperparameters": {"optimizer": SGD}},
        "hyperparameters.optimizer.groups[0].options.requires_grad",
        "ignored_option",
    ),
    "option of another optimizer": (
        {"hyperparameters": {"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}},
        "hyperparameters.optimizer.betas",
        "unknown_option",
    ),
    "nested without end": (
        {"model": {**TORCH, "kwargs": {"in_features": 2, "out_features": nested(300)}}},
        "model.kwargs",
        "invalid_value",
    ),
    "a number that is none": (
        {"model": {**TORCH, "kwargs": {"in_features": 2, "out_features": float("nan")}}},
        "model.kwargs",
        "invalid_value",
    ),
    "a number of 400 digits": (
        {"model": {**TORCH, "kwargs": {"in_features": 10**400, "out_features": 1}}},
        "model.kwargs",
        "invalid_value",
    ),
    "half a character": (
        {"model": {"type": "torch", "architecture": "mlp", "kwargs": {"\ud800": 1}}},
        "model.kwargs",
        "invalid_value",
    ),
    "no time at all": ({"max_run_seconds": 0}, "max_run_seconds", "invalid_value"),
    "no time among the hyperparameters": (
        {"hyperparameters": {"max_run_seconds": 0}},
        "hyperparameters.max_run_seconds",
        "invalid_value",
    ),
    **{
        f"group with {case}": (
            {"hyperparameters": {"optimizer": {"name": name, "groups": [{"select": {"name": "bias"}, **group}]}}},
            f"hyperparameters.optimizer.groups[0]{inside}",
            code,
        )
        for case, name, group, inside, code in BAD_GROUPS
    },
    "two groups of one tensor": (
        {"hyperparameters": {"optimizer": {"groups": [{"select": {"name": "bias"}, "options": {}}] * 2}}},
        "hyperparameters.optimizer.groups[1]",
        "invalid_request",
    ),
    "one epsilon for adafactor": (
        {"hyperparameters": {"optimizer": {"name": "adafactor", "eps": 0.1}}},
        "hyperparameters.optimizer.eps",
        "invalid_value",
    ),
    "two warm-ups": (
        {"hyperparameters": {"warmup_steps": 1, "warmup_ratio": 0.1}},
        "hyperparameters",
        "invalid_value",
    ),
    "no column of that name": ({"data": {"target": "price"}}, "training_file", "invalid_training_data"),
}
