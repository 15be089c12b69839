"""Payloads of the evidence endpoints: verdict, tensors and signing keys."""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.evidence.tables import Evidence, Parameter
from app.paging.keyset import Page

#: The first three are a worker's; the others say why there is no such judgement.
Verdict = Literal["verified", "violated", "incomplete", "pending", "none"]
VERDICT: Final = (
    "`verified`: every frozen tensor has the base's bytes; `violated`: one has not; `incomplete`: something could "
    "not be read or compared, or nothing was frozen; `pending`: the job has not ended; `none`: it ended without a "
    "result to judge."
)


class EvidenceAnswer(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class EvidenceViolation(EvidenceAnswer):
    """A frozen tensor that moved; steps and operation where the witness could name them."""

    model_config = ConfigDict(extra="allow")

    name: str
    last_good_step: int | None = None
    first_bad_step: int | None = None
    operation: str | None = Field(
        default=None, description="The operation that wrote it, and the line of code that called it."
    )
    explanation: str | None = Field(
        default=None,
        description="Where no operation is named: why a replay of the steps could not show it, such as a write from "
        "outside torch's dispatcher.",
    )
    reason: str | None = Field(default=None, description="What the files show.")


SCHEDULED: Final = (
    "Tensors that did not change in the steps for which a schedule froze them. `frozen_tensors` does not count them: "
    "they are not claimed to be the base's."
)
SPLIT: Final = "Tensors whose frozen rows are the base's. `frozen_tensors` does not count them."


class EvidenceObject(EvidenceAnswer):
    """What was claimed of a job's frozen tensors, and whether it held."""

    object: Literal["fine_tuning.job.evidence"] = "fine_tuning.job.evidence"
    fine_tuning_job_id: str
    created_at: int | None
    verdict: Verdict = Field(description=VERDICT)
    reason: str | None = None
    attempt: int | None = None
    frozen_tensors: int | None = None
    frozen_bytes: int | None = None
    scheduled_tensors: int | None = Field(default=None, description=SCHEDULED)
    split_tensors: int | None = Field(default=None, description=SPLIT)
    base_root: str | None = Field(
        default=None, description="RFC 9162 root over the base's tensors: what an auditor pins."
    )
    frozen_root: str | None = None
    result_root: str | None = None
    violations: list[EvidenceViolation] = []
    checks: dict[str, Any] = {}
    keyid: str | None = Field(default=None, description="The key under which the attestation was signed.")

    @classmethod
    def of(cls, row: Evidence) -> "EvidenceObject":
        return cls.model_validate(
            {
                "fine_tuning_job_id": row.job_id,
                "created_at": int(row.created_at.timestamp()),
                "verdict": row.verdict,
                "reason": row.reason,
                "attempt": row.attempt,
                "frozen_tensors": row.frozen_tensors,
                "frozen_bytes": row.frozen_bytes,
                "scheduled_tensors": row.checks.get("scheduled_tensors"),
                "split_tensors": row.checks.get("split_tensors"),
                "base_root": row.base_root,
                "frozen_root": row.frozen_root,
                "result_root": row.result_root,
                "violations": row.violations,
                "checks": row.checks,
                "keyid": row.keyid,
            }
        )


class ParameterObject(EvidenceAnswer):
    """One tensor: what the policy said of it, and what became of it."""

    id: str = Field(description="Cursor of the list.")
    name: str
    base_name: str | None = Field(description="Its name in the base's files.")
    result_name: str | None = Field(description="Its name in the result's files.")
    kind: str
    role: str
    rule: str | None
    mechanism: str | None
    dtype: str
    shape: list[int]
    elements: int
    nbytes: int
    changed: bool | None = Field(description="null: there is nothing to compare with (a new tensor).")
    changed_elements: int | None
    first_changed_step: int | None
    base_sha256: str | None
    result_sha256: str | None
    stats: dict[str, Any] | None = Field(description="How the result differs from the base.")
    history: list[dict[str, Any]] = Field(
        description="The same at the checkpoints that the run has kept, each with its `step`."
    )

    @classmethod
    def of(cls, row: Parameter) -> "ParameterObject":
        values = {name: getattr(row, name) for name in cls.model_fields if name != "id"}
        return cls(id=f"param-{row.position}", **values)


class ParameterList(Page):
    data: list[ParameterObject]


class SigningKeyObject(EvidenceAnswer):
    """A public key, and when statements under it count."""

    id: str = Field(description="SHA-256 of the key's DER SubjectPublicKeyInfo.")
    object: Literal["signing_key"] = "signing_key"
    algorithm: str
    public_key: str = Field(description="PEM.")
    not_before: str | None
    not_after: str | None
    revoked_at: str | None
    introduced_by: dict[str, Any] | None = Field(
        description="Statement under the key before it that introduced this one."
    )


class SigningKeyList(Page):
    data: list[SigningKeyObject]
    post_quantum: list[SigningKeyObject] = Field(
        default=[], description="Keys (ML-DSA) that sign beside one of `data`; older verifiers pass over them."
    )
    log_keys: list[str] = Field(
        default=[], description="Public keys of the transparency log, each a `vkey` (c2sp.org/signed-note)."
    )


class TransparencyLog(EvidenceAnswer):
    """The log of every signed statement and every registered base."""

    object: Literal["transparency_log"] = "transparency_log"
    origin: str | None = Field(default=None, description="The log's name, which its checkpoints begin with.")
    key: str | None = Field(default=None, description="Its public key as a `vkey` (c2sp.org/signed-note).")
    size: int = Field(description="How many entries are under the checkpoint.")
    root: str | None = Field(default=None, description="RFC 9162 root over these entries.")
    checkpoint: str | None = Field(default=None, description="The signed checkpoint, as `/v1/log/checkpoint` has it.")
