"""`permafrost sweep`: submits several jobs at once, and shows them ranked."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import httpx2
import typer
from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.table import Table

from app.cli.client import EXAMPLE, LARGE, _json, _model
from app.cli.output import WIDE
from app.cli.service import Server, ask, connect
from app.jsontypes import JsonDict

SECONDS: Final = 1.0
#: Longer values are cut in the table of a terminal; in a pipe they are whole.
CHARACTERS: Final = 40


def sweep(
    target: Annotated[
        str,
        typer.Argument(help="A training file, a sweep's request (.json), or the id of a sweep (ftsweep-…) to show."),
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Model id, or a model spec as JSON or @file.json.")
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="Freeze policy as JSON or @file.json; several make jobs.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            help="A hyperparameter and its values, as learning_rate=0.001,0.01 or n_epochs=3; can be repeated.",
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Random seed; several make jobs.")] = None,
    validation_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The examples by which the jobs are ranked.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Such as accuracy; default: the loss.")] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Cancel jobs that are worse than the median at the same step.")
    ] = False,
    follow: Annotated[bool, typer.Option("--watch", help="Wait until the sweep ends, then show the ranks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the sweep as JSON.")] = False,
    server: Server = "",
) -> None:
    """Submit a sweep and print its id, or show one as a table of ranks. With --watch, exit code 1: no job succeeded."""
    with connect(server) as client:
        submitted = not target.startswith("ftsweep-")
        if submitted:
            own: JsonDict = {"model": model, "policies": policy, "grid": grid, "seeds": seed}
            own |= {"validation_file": validation_file, "metric": metric, "stop_early": stop_early}
            shown = _submit(client, target, own)
            _announce(client, shown, as_json=as_json)
        else:
            shown = ask(client, "GET", _path(target))

        if follow:
            shown = _wait(client, shown)
        if as_json:
            print(json.dumps(shown, ensure_ascii=False))
        elif follow or not submitted:
            _print_ranks(shown)
        if follow and shown["status"] != "succeeded":
            raise SystemExit(1)


def _path(sweep_id: str) -> str:
    return f"fine_tuning/sweeps/{sweep_id}"


def _submit(client: httpx2.Client, target: str, options: Mapping[str, Any]) -> JsonDict:
    """A request in a file goes as it is; else the training file is uploaded and the options make the request."""
    file = Path(target)
    if not file.is_file():
        message = f"{target!r} is neither a file nor the id of a sweep (ftsweep-…)"
        raise typer.BadParameter(message, param_hint="TARGET")
    body = _json(f"@{file}", "TARGET") if file.suffix == ".json" else _request(client, file, options)
    return ask(client, "POST", "fine_tuning/sweeps", json=body)


def _request(client: httpx2.Client, file: Path, options: Mapping[str, Any]) -> JsonDict:
    if options["model"] is None:
        raise typer.BadParameter("needed with a training file", param_hint="--model")
    policies = [_json(policy, "--policy", EXAMPLE) for policy in options["policies"] or []]
    seeds = options["seeds"] or []
    axes = dict(_axis(text) for text in options["grid"] or ())
    varied = {name: values for name, values in axes.items() if len(values) > 1}
    grid: JsonDict = {
        "hyperparameters": varied,
        "freeze_policy": policies[1:] and policies,
        "seed": seeds[1:] and seeds,
    }
    grid = {name: values for name, values in grid.items() if values}
    if not grid:
        raise typer.BadParameter("say what the jobs differ in: --grid, several --seed or --policy", param_hint="--grid")

    job: JsonDict = {
        "model": _model(options["model"]),
        "hyperparameters": {name: values[0] for name, values in axes.items() if len(values) == 1},
        "freeze_policy": policies[0] if len(policies) == 1 else None,
        "seed": seeds[0] if len(seeds) == 1 else None,
        "training_file": _upload(client, file),
    }
    if options["validation_file"]:
        job["validation_file"] = _upload(client, options["validation_file"])
    body = {"job": {name: value for name, value in job.items() if value is not None}, "grid": grid}
    body |= {"metric": options["metric"]} if options["metric"] else {}
    return body | ({"early_stopping": {"type": "median"}} if options["stop_early"] else {})


def _axis(text: str) -> tuple[str, list[Any]]:
    """`learning_rate=0.001,0.01` as a name and its values; `optimizer=[{"name": "sgd"}]` has them as JSON."""
    name, found, values = text.partition("=")
    if not found or not values:
        raise typer.BadParameter(f"{text!r} is not like learning_rate=0.001,0.01", param_hint="--grid")
    if values.startswith("["):
        listed: list[Any] = _json(values, "--grid")
        return name, listed
    return name, [_value(value) for value in values.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _upload(client: httpx2.Client, path: Path) -> str:
    if (size := path.stat().st_size) > LARGE:
        print(f"uploading {path.name}, {size / 1e6:,.0f} MB", file=sys.stderr)
    with path.open("rb") as file:
        uploaded = ask(client, "POST", "files", data={"purpose": "fine-tune"}, files={"file": (path.name, file)})
    return str(uploaded["id"])


def _announce(client: httpx2.Client, sweep: Mapping[str, Any], *, as_json: bool) -> None:
    if not as_json:
        print(sweep["id"], flush=True)
    page = f"{str(client.base_url).removesuffix('/v1/')}/sweeps/{sweep['id']}"
    print(f"{page}\nto see its ranks: permafrost sweep {sweep['id']}", file=sys.stderr)
    for warning in sweep["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)


def _wait(client: httpx2.Client, sweep: JsonDict) -> JsonDict:
    """The sweep once it has ended; a line on standard error for each change of its counts. Exit code 130: Ctrl-C."""
    printed = None
    try:
        while sweep["status"] == "running":
            if sweep["job_counts"] != printed:
                print(_counts(sweep), file=sys.stderr, flush=True)
                printed = sweep["job_counts"]
            time.sleep(SECONDS)
            sweep = ask(client, "GET", _path(sweep["id"]))
    except KeyboardInterrupt:
        print(f"\nstopped watching; the sweep goes on. To see it: permafrost sweep {sweep['id']}", file=sys.stderr)
        raise SystemExit(130) from None
    return sweep


def _counts(sweep: Mapping[str, Any]) -> str:
    states = [
        f"{count:,} {state.replace('_', ' ')}" for state, count in sweep["job_counts"].items() if state != "total"
    ]
    return f"{sweep['status']}: {', '.join(states)} of {sweep['job_counts']['total']:,} jobs"


def _print_ranks(sweep: Mapping[str, Any]) -> None:
    terminal = sys.stdout.isatty()
    console = Console(markup=False, emoji=False, highlight=False, width=None if terminal else WIDE)
    names = _names(sweep["ranking"])
    metric = sweep["metric"]
    headings = ("rank", f"{metric['split']} {metric['name']}", *names, "step", "state", "evidence", "job")
    table = Table(*headings, box=HEAVY_HEAD if terminal else None)
    for row in sweep["ranking"]:
        cells = [_shown(_flat(row["values"]).get(name), cut=terminal) for name in names]
        verdict = "stopped early" if row["stopped"] else row["verdict"]
        table.add_row(
            _shown(row["rank"]),
            _shown(row["value"]),
            *cells,
            _shown(row["step"]),
            row["status"],
            verdict,
            row["job_id"],
        )
    console.print(table)
    console.print(_counts(sweep))
    if sweep["best"]:
        console.print(f"best: {sweep['best']['job_id']}, model {sweep['best']['fine_tuned_model']}")


def _names(ranking: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({name for row in ranking for name in _flat(row["values"])})


def _flat(values: Mapping[str, Any]) -> JsonDict:
    rest = {name: value for name, value in values.items() if name != "hyperparameters"}
    return {**values.get("hyperparameters", {}), **rest}


def _shown(value: Any, *, cut: bool = False) -> str:
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= CHARACTERS or not cut else f"{text[: CHARACTERS - 1]}…"
