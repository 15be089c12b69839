"""Numbers and times as people read them; the filters of the templates."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def size(count: float | None) -> str:
    """`16 bytes`, `1.3 MB`."""
    if count is None:
        return "–"
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 99.95 else f"{value:.1f} {_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None:
        return "–"
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: Any) -> str:
    """`1,234`, `0.0213`, `1.2e-07`; anything that is no number as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


def moment(seconds: int | None) -> str:
    """Unix time as `2026-11-23 16:40:02 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds is not None else "–"


def clock(seconds: int) -> str:
    """`16:40:02`, in UTC as every time on the pages."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def ago(seconds: int) -> str:
    """`just now`, `5 min ago`; static/live.js says the same while the page is open."""
    age = datetime.now(UTC).timestamp() - seconds
    if age < 60:
        return "just now"
    if age < 3600:
        return f"{age // 60:.0f} min ago"
    return f"{age // 3600:.0f} h ago" if age < 86400 else f"{age // 86400:.0f} d ago"


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def count(number_: int, noun: str) -> str:
    """`1 tensor`, `1,200 tensors`."""
    return f"{number_:,} {noun}{'' if number_ == 1 else 's'}"


def selector(select: Mapping[str, Any]) -> str:
    """A policy's selector in one line: `name bert.** · rows 0–4`."""
    parts = []
    for key, value in select.items():
        if key == "layers":
            rest = ", ".join(f"{name} {count}" for name, count in value.items() if name != "path")
            parts.append(f"layers of {value['path']}: {rest}")
        elif key == "rows":
            parts.append(
                "rows " + ", ".join(f"{start}–{stop - 1}" if stop > start + 1 else f"{start}" for start, stop in value)
            )
        else:
            parts.append(f"{key.replace('_', ' ')} {value if isinstance(value, str) else ', '.join(value)}")
    return " · ".join(parts)


_ADAPTERS = {"lora": "LoRA", "ia3": "IA3", "prompt_tuning": "prompt tuning"}


def adapter(spec: Mapping[str, Any]) -> str:
    """An adapter as a model spec has it: `LoRA, rank 8, alpha 16, on q_proj, v_proj, merged into the weights`."""
    kind = spec["type"]
    name = "DoRA" if spec.get("use_dora") else "rsLoRA" if spec.get("use_rslora") else _ADAPTERS.get(kind, kind)
    parts = [name]
    if kind == "lora":
        parts += [f"rank {spec.get('r') or 8}", f"alpha {spec.get('alpha') or 16:g}"]
        parts += [f"dropout {spec['dropout']:g}"] if spec.get("dropout") else []
    if kind == "prompt_tuning":
        parts.append(f"{spec.get('num_virtual_tokens') or 8} virtual tokens")
    parts += [f"on {', '.join(spec['target_modules'])}"] if spec.get("target_modules") else []
    parts += ["merged into the weights"] if spec.get("merge") else []
    parts += [f"trained on from {spec['start']}"] if spec.get("start") else []
    return ", ".join(parts)


def outcome(job: Any) -> str:
    """A job's state and, once it has a judgement, its verdict: `running`, `succeeded, violated`, `failed`."""
    status, verdict = job.status.replace("_", " "), job.evidence.verdict
    return f"{status}, {verdict}" if verdict in _JUDGED else status


def mood(job: Any) -> str:
    """The class that colours `outcome`: a violation is never green."""
    if job.evidence.verdict == "violated" or (job.status == "succeeded" and job.evidence.verdict in _JUDGED):
        return str(job.evidence.verdict)
    return str(job.status)


_JUDGED = ("verified", "violated", "incomplete")


FILTERS = {
    "size": size,
    "duration": duration,
    "number": number,
    "moment": moment,
    "clock": clock,
    "day": day,
    "ago": ago,
    "iso": iso,
    "count": count,
    "selector": selector,
    "adapter": adapter,
    "outcome": outcome,
    "mood": mood,
}
