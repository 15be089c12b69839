"""`permafrost doctor`: checks the installation, and that rows, blobs and folders agree. Repairs with --repair."""

import json
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from app.jsontypes import JsonDict
from app.ops.doctor.finding import Finding
from app.ops.doctor.installation import PartCheck, checks
from app.settings import Settings

DAY = 86_400.0


Repair = Annotated[bool, typer.Option("--repair", help="Repair what can be repaired; without it nothing changes.")]
Deep = Annotated[bool, typer.Option("--deep", help="Read every blob and check its digest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_AGE = "Ignore files younger than this many seconds. Default: 3600, or 5 while no job runs."
_PURGE = "With --repair, delete files that have been in quarantine for this many days."


def doctor(
    repair: Repair = False,
    deep: Deep = False,
    as_json: AsJson = False,
    older_than: Annotated[float | None, typer.Option(help=_AGE)] = None,
    purge: Annotated[float | None, typer.Option(help=_PURGE)] = None,
) -> None:
    """Check the installation, then compare database, storage and work folders.

    Safe while the service runs. Exit code 0: no problem, or all were repaired; 1: problems are left.
    """
    settings = Settings()
    checked = list(checks(settings))
    findings: list[Finding] = []
    problems = [check for check in checked if check.level == "problem"]
    problem = next((check.detail for check in problems if check.name in ("database", "storage")), None)
    if problem is None:
        findings = examine(settings, repair=repair, deep=deep, older_than=older_than, purge=purge)
    compared = f"not compared: {problem}" if problem else None
    if as_json:
        print(json.dumps(document(checked, findings, compared), indent=1))
    else:
        print("\n".join(lines(checked, findings, compared)))
    failed = bool(problems) or any(finding.open for finding in findings)
    raise SystemExit(1 if failed else 0)


def examine(
    settings: Settings,
    *,
    repair: bool = False,
    deep: bool = False,
    older_than: float | None = None,
    purge: float | None = None,
) -> list[Finding]:
    """Every finding; with `repair`, repaired where possible."""
    from app.db import Database
    from app.ops.doctor.blobs import BlobAudit
    from app.ops.doctor.jobs import JobAudit
    from app.ops.doctor.log import LogBooks
    from app.storage.blobs import Storage

    db, storage = Database(settings.database), Storage(settings.storage)
    try:
        blobs = BlobAudit(settings, db, storage, older_than=older_than, deep=deep)
        jobs = JobAudit(settings, db, older_than=older_than, deep=deep)
        log = LogBooks(settings, db, storage, deep=deep)
        findings = [*jobs.findings(), *blobs.findings(), *jobs.expired(), *log.findings()]
        if repair:
            for finding in findings:
                finding.apply_repair()
            late = set(blobs.settle())
            for finding in (finding for finding in findings if finding.object in late):
                finding.done = "moved back: a new row refers to it"
        findings += _purged(storage, days=purge, act=repair) if purge is not None else ()
        return findings
    finally:
        db.close()


def _purged(storage: Any, *, days: float, act: bool) -> Iterator[Finding]:
    for entry in list(storage.quarantined()):
        if entry.modified <= time.time() - days * DAY:
            finding = Finding("quarantined", entry.key, f"{entry.size:,} bytes", "deleted", level="note")
            if act:
                storage.remove_file(entry.key)
                finding.done = "deleted"
            yield finding


def lines(checked: list[PartCheck], findings: list[Finding], compared: str | None) -> Iterator[str]:
    yield from (check.to_text() for check in checked)
    yield from (finding.to_text() for finding in findings)
    if compared:
        yield f"FAIL  books: {compared}"
        return
    summary = tally(findings)
    counts = ", ".join(f"{count} {name}" for name, count in summary.items() if count) or "everything agrees"
    hint = "; --repair repairs them" if any(finding.open and finding.remedy for finding in findings) else ""
    yield f"{'FAIL' if summary['open'] else 'ok':4}  books: {counts}{hint}"


def document(checked: list[PartCheck], findings: list[Finding], compared: str | None) -> JsonDict:
    results = [{"name": check.name, "ok": check.level != "problem", "detail": check.detail} for check in checked]
    books = {"compared": compared is None, "reason": compared, **tally(findings)}
    return {"checks": results, "findings": [finding.to_json() for finding in findings], "books": books}


def tally(findings: list[Finding]) -> dict[str, int]:
    return {
        "open": sum(finding.open for finding in findings),
        "mended": sum(finding.done is not None for finding in findings),
        "notes": sum(finding.level == "note" and finding.done is None for finding in findings),
    }
