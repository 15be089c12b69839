"""Tables of a job's evidence: the verdict with its signed envelope, and one row for every tensor."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, deferred, mapped_column

from app.db import Base
from app.jsontypes import JsonDict


class Evidence(Base):
    __tablename__ = "evidence"
    __table_args__ = (Index("ix_evidence_verdict", "verdict", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime]
    attempt: Mapped[int]
    verdict: Mapped[str] = mapped_column(String(12))  # "verified" | "violated" | "incomplete"
    reason: Mapped[str | None] = mapped_column(Text)
    frozen_tensors: Mapped[int]
    frozen_bytes: Mapped[int] = mapped_column(BigInteger)
    base_root: Mapped[str | None] = mapped_column(String(64))
    frozen_root: Mapped[str | None] = mapped_column(String(64))
    result_root: Mapped[str | None] = mapped_column(String(64))
    violations: Mapped[list[Any]] = mapped_column(default=list)
    checks: Mapped[JsonDict] = mapped_column(default=dict)
    keyid: Mapped[str | None] = mapped_column(String(80))
    #: The DSSE envelope, byte for byte as it was signed.
    envelope: Mapped[bytes | None] = deferred(mapped_column(LargeBinary))
    #: The OpenSSF bundle over the result's files, where a P-256 key signed.
    model_sig: Mapped[bytes | None] = deferred(mapped_column(LargeBinary))
    #: RFC 3161 timestamps over the first signatures of statement and recipe, one after the other, and when to ask for
    #: them where they are still missing.
    timestamp: Mapped[bytes | None] = deferred(mapped_column(LargeBinary))
    timestamp_due: Mapped[datetime | None] = mapped_column(index=True)
    #: The hash of the transparency log's entry about the envelope.
    log_leaf: Mapped[str | None] = mapped_column(String(64))


class Parameter(Base):
    """One tensor of a job's result: what was claimed of it and how it changed."""

    __tablename__ = "job_parameters"
    __table_args__ = (Index("ix_job_parameters_changed", "job_id", "changed_elements"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)  # by UTF-8 name
    name: Mapped[str] = mapped_column(Text)
    base_name: Mapped[str | None] = mapped_column(Text)
    result_name: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(12))
    role: Mapped[str] = mapped_column(String(12))
    rule: Mapped[str | None] = mapped_column(String(128))
    mechanism: Mapped[str | None] = mapped_column(String(16))
    dtype: Mapped[str] = mapped_column(String(12))
    shape: Mapped[list[Any]]
    elements: Mapped[int] = mapped_column(BigInteger)
    nbytes: Mapped[int] = mapped_column(BigInteger)
    changed: Mapped[bool | None]  # None: there is nothing to compare with (a new tensor)
    changed_elements: Mapped[int | None] = mapped_column(BigInteger)
    first_changed_step: Mapped[int | None]
    base_sha256: Mapped[str | None] = mapped_column(String(64))
    result_sha256: Mapped[str | None] = mapped_column(String(64))
    stats: Mapped[JsonDict | None] = mapped_column(JSON(none_as_null=True))
    #: The same at checkpoints that the run has kept: [{step, ...}], oldest first.
    history: Mapped[list[Any]] = mapped_column(default=list, server_default="[]")
