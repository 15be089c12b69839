"""Part a: `x @ weight + bias` with `weight` frozen in each of three ways, and once in a way that freezes nothing."""

import json
from typing import Any

from rich.table import Table

from demo.screen import Check, console, follow, part, verdict
from demo.service import Service

MECHANISMS = {
    "requires_grad": "the attribute is false",
    "detach": "forward pass reads weight.detach()",
    "param_group": "kept out of every optimizer group",
}
CONTROL = "as written"
HYPERPARAMETERS = {
    "n_epochs": 10,
    "batch_size": 32,
    "learning_rate": 0.1,
    "optimizer": {"name": "sgd"},
}


def run(service: Service) -> list[Check]:
    part(
        "a",
        "One weight, three ways to freeze it, and one that only looks like a fourth",
        "Model: x @ weight + bias, both custom parameters. Data: scikit-learn's diabetes table, 442 patients.",
    )
    training_file = service.upload(diabetes(), name="diabetes.jsonl")
    policies: dict[str, dict[str, Any]] = {name: {"freeze": ["weight"], "mechanism": name} for name in MECHANISMS}
    jobs = {name: submit(service, training_file, policy) for name, policy in policies.items()}
    jobs[CONTROL] = submit(service, training_file, {"freeze": ["weight"], "enforce": False}, optimizer=ignored_option())
    ended = follow(service, jobs)
    rows = {label: tensors(service, job["id"]) for label, job in ended.items()}
    show(ended, rows)
    return judge(ended, rows)


def diabetes() -> bytes:
    """The table that comes inside scikit-learn, one JSON object a line."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    pairs = zip(bunch.data.tolist(), bunch.target.tolist(), strict=True)
    return b"".join(json.dumps({"x": x, "y": y}).encode() + b"\n" for x, y in pairs)


def ignored_option() -> dict[str, Any]:
    """The article's third example to the letter: optimizers accept this key in a group, and ignore it."""
    return {"name": "sgd", "groups": [{"select": {"name": "weight"}, "options": {"requires_grad": False}}]}


def submit(service: Service, training_file: str, policy: dict[str, Any], **hyperparameters: Any) -> str:
    job = service.post(
        "/v1/fine_tuning/jobs",
        {
            "model": {"type": "torch", "architecture": "affine", "kwargs": {"in_features": 10, "out_features": 1}},
            "training_file": training_file,
            "seed": 7,
            "hyperparameters": HYPERPARAMETERS | hyperparameters,
            "freeze_policy": policy,
        },
    )
    return str(job["id"])


def tensors(service: Service, job_id: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in service.get(f"/v1/fine_tuning/jobs/{job_id}/parameters")["data"]}


def show(jobs: dict[str, dict[str, Any]], rows: dict[str, dict[str, dict[str, Any]]]) -> None:
    table = Table(border_style="dim", title_justify="left")
    for heading in ("mechanism", "how", "weight changed", "bias changed", "verdict"):
        table.add_column(heading)
    for label, job in jobs.items():
        how = MECHANISMS.get(label, '{"params": weight, "requires_grad": False}')
        changed = [changes(rows[label][name]) for name in ("weight", "bias")]
        table.add_row(label, f"[dim]{how}[/]", *changed, verdict(job["evidence"]["verdict"]))
    console.print(table)
    for violation in jobs[CONTROL]["evidence"]["violations"]:
        text = f"{violation['name']} was last good after step {violation['last_good_step']}"
        console.print(
            f"  The control, named by its evidence: {text}, first bad after step {violation['first_bad_step']}."
        )


def changes(row: dict[str, Any]) -> str:
    if not row["changed"]:
        return "no, not by a bit"
    return f"yes, {row['changed_elements']} of {row['elements']}"


def judge(jobs: dict[str, dict[str, Any]], rows: dict[str, dict[str, dict[str, Any]]]) -> list[Check]:
    violations = [(v["name"], v["first_bad_step"]) for v in jobs[CONTROL]["evidence"]["violations"]]
    biases = {rows[name]["bias"]["result_sha256"] for name in MECHANISMS}
    return [
        *(
            Check(
                f"{name}: weight is bit-identical to the base, bias trained, evidence verified",
                jobs[name]["evidence"]["verdict"] == "verified"
                and rows[name]["weight"]["changed"] is False
                and rows[name]["bias"]["changed"] is True,
            )
            for name in MECHANISMS
        ),
        Check("the three mechanisms trained the bias to the same bits", len(biases) == 1),
        Check(
            "the option that only looks like freezing: evidence says violated, names weight and step 1",
            jobs[CONTROL]["evidence"]["verdict"] == "violated" and violations == [("weight", 1)],
        ),
    ]
