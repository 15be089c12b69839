"""Writes a run's curves as JSON lines, as CSV, and on request as an event file for TensorBoard."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: TensorBoard finds event files by the middle of their name.
EVENTS = "events.out.tfevents.permafrost"

History = Sequence[Mapping[str, Any]]


def write(folder: Path, history: History, *, tensorboard: bool) -> None:
    """Writes metrics.jsonl, metrics.csv and, for `tensorboard`, the event file."""
    columns = list(dict.fromkeys(key for row in history for key in row))
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in history)
    with (folder / "metrics.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(history)
    if tensorboard:
        _write_events(folder / EVENTS, history)


def _write_events(path: Path, history: History) -> None:
    """Writes every number by step. Curves have no wall time, so each event gets the time of writing."""
    from tensorboardX.proto.event_pb2 import Event  # only jobs with tensorboard need it
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    now = time.time()
    writer = RecordWriter(str(path))
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    for row in history:
        numbers = {name: value for name, value in row.items() if name != "step" and isinstance(value, (int, float))}
        values = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in numbers.items()]
        event = Event(wall_time=now, step=int(row["step"]), summary=Summary(value=values))
        writer.write(event.SerializeToString())
    writer.close()


def _tag(name: str) -> str:
    """The name under which TensorBoard groups charts: by the part before the slash."""
    return f"valid/{name.removeprefix('valid_')}" if name.startswith("valid_") else f"train/{name}"
