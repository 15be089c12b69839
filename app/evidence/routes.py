"""Endpoints for a job's evidence (verdict, signed envelope, tensors) and for the public keys that verify it."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from sqlalchemy import Select, and_, func, or_, select
from sqlalchemy.orm import Session

from app.auth.caller import AsReader
from app.errors import InvalidRequest, NotFound
from app.evidence.format.envelope import accompanied
from app.evidence.format.keys import read_ring, ring_json
from app.evidence.format.modelsig import MEDIA_TYPE
from app.evidence.schemas import EvidenceObject, ParameterList, ParameterObject, SigningKeyList
from app.evidence.tables import Evidence, Parameter
from app.evidence.transparency.proofs import proof_of
from app.http.dependencies import Blobs, Config, Db, JobId
from app.jobs.queue.queries import find_job
from app.openapi.prose import BUNDLE, ENVELOPE, ERRORS
from app.paging.keyset import AfterQuery

router = APIRouter(tags=["Evidence"], responses=ERRORS)

Role = Literal["frozen", "trainable", "split", "new", "buffer", "dropped", "scheduled"]
Sort = Literal["name", "changed_elements", "relative_l2"]
ENVELOPE_TYPE = "application/vnd.dsse.envelope.v1+json"


@router.get(
    "/fine_tuning/jobs/{fine_tuning_job_id}/evidence", operation_id="retrieveEvidence", summary="Read a job's evidence"
)
def retrieve_evidence(fine_tuning_job_id: JobId, caller: AsReader, db: Db) -> EvidenceObject:
    """`pending` until the job ends; `none` of a job that ended without a result."""
    with db.read() as session:
        job = find_job(session, caller.project, fine_tuning_job_id)
        row = session.get(Evidence, job.id)
    if row is not None:
        return EvidenceObject.of(row)
    if not job.ended:
        return EvidenceObject(fine_tuning_job_id=job.id, created_at=None, verdict="pending")
    reason = f"the job ended without a result ({job.status})"
    return EvidenceObject(fine_tuning_job_id=job.id, created_at=None, verdict="none", reason=reason)


@router.get(
    "/fine_tuning/jobs/{fine_tuning_job_id}/attestation",
    operation_id="downloadAttestation",
    summary="Download a job's attestation",
    response_class=Response,
    responses={200: {"content": {ENVELOPE_TYPE: {"schema": {"type": "object"}, "example": ENVELOPE}}}},
)
def download_attestation(fine_tuning_job_id: JobId, caller: AsReader, db: Db, storage: Blobs) -> Response:
    """The DSSE envelope around an in-toto statement, as it was signed. For `permafrost verify`.

    Its member `recipe` is a second envelope: SLSA Provenance v1, of what the same files were made of and how.
    Attestations from before there were recipes have none. `timestamp` is an RFC 3161 timestamp over the first
    signature and `recipeTimestamp` one over the recipe's, where an authority is configured and has answered by now.
    `tlog_proof` proves (c2sp.org/tlog-proof) that the transparency log has the statement.
    """
    with db.read() as session:
        job = find_job(session, caller.project, fine_tuning_job_id)
        row = session.get(Evidence, job.id)
        envelope, timestamp = (row.envelope, row.timestamp) if row is not None else (None, None)
    if row is None or envelope is None:
        message = f"job {job.id} has no attestation (it is {job.status}); one is made when a job succeeds"
        raise NotFound(message, code="no_attestation")
    envelope = accompanied(envelope, timestamp, proof_of(db, storage, row.log_leaf))
    headers = {"content-disposition": f'attachment; filename="{job.id}.attestation.json"'}
    return Response(envelope, headers=headers, media_type=ENVELOPE_TYPE)


@router.get(
    "/fine_tuning/jobs/{fine_tuning_job_id}/model_signature",
    operation_id="downloadModelSignature",
    summary="Download the OpenSSF bundle (`model.sig`)",
    response_class=Response,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "object"}, "example": BUNDLE}}}},
)
def download_model_signature(fine_tuning_job_id: JobId, caller: AsReader, db: Db) -> Response:
    """For `model_signing verify key`, which nobody here wrote: it checks the result's files, and says nothing about
    tensors. Its format takes P-256 keys alone: there is one where such a key signed."""
    with db.read() as session:
        job = find_job(session, caller.project, fine_tuning_job_id)
        row = session.get(Evidence, job.id)
        attested, bundle = row is not None and row.envelope is not None, row.model_sig if row is not None else None
    if bundle is None:
        why = "no ecdsa-p256 key signed it (permafrost keys signing rotate --algorithm ecdsa-p256)"
        why = why if attested else f"it is {job.status}; one is made when a job succeeds"
        raise NotFound(f"job {job.id} has no model.sig: {why}", code="no_model_signature")
    return Response(bundle, headers={"content-disposition": 'attachment; filename="model.sig"'}, media_type=MEDIA_TYPE)


@router.get(
    "/fine_tuning/jobs/{fine_tuning_job_id}/parameters",
    operation_id="listParameters",
    summary="List what became of every tensor",
)
def list_parameters(
    fine_tuning_job_id: JobId,
    caller: AsReader,
    db: Db,
    after: AfterQuery = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    role: Annotated[Role | None, Query(description="Only tensors in this role.")] = None,
    changed: Annotated[bool | None, Query(description="Only tensors that changed, or that did not.")] = None,
    sort: Annotated[
        Sort, Query(description="`name`, or the most changed first: by elements, or by the norm of their change.")
    ] = "name",
) -> ParameterList:
    """By name, or the most changed first. Empty until the job ends."""
    statement = select(Parameter).where(Parameter.job_id == fine_tuning_job_id)
    statement = statement.where(Parameter.role == role) if role is not None else statement
    statement = statement.where(Parameter.changed.is_(changed)) if changed is not None else statement
    with db.read() as session:
        find_job(session, caller.project, fine_tuning_job_id)
        rows = list(session.scalars(_page(session, statement, fine_tuning_job_id, sort, after).limit(limit + 1)))
    data = [ParameterObject.of(row) for row in rows[:limit]]
    return ParameterList.page(data, more=len(rows) > limit)


@router.get("/signing_keys", operation_id="listSigningKeys", summary="List the public keys")
def list_signing_keys(caller: AsReader, settings: Config) -> SigningKeyList:
    """What `permafrost verify --key` takes; get it over a channel that you trust. Empty before the first signature."""
    path = settings.signing_key_path
    keys = read_ring(path) if path.exists() or path.with_suffix(".ring.json").exists() else ()
    log_key = settings.log_key_path.with_suffix(".vkey")
    log_keys = log_key.read_text().split() if log_key.exists() else []
    return SigningKeyList.model_validate({**ring_json(keys), "log_keys": log_keys, "has_more": False})


def _page(
    session: Session, statement: Select[Parameter], job_id: str, sort: Sort, after: str | None
) -> Select[Parameter]:
    """The query sorted, from the cursor on. Tensors without the sorted figure come last; ties are sorted by name."""
    position = _position(after) if after is not None else -1
    if sort == "name":
        return statement.where(Parameter.position > position).order_by(Parameter.position)
    figure = Parameter.changed_elements if sort == "changed_elements" else Parameter.stats["relative_l2"].as_float()
    amount = func.coalesce(figure, -1)
    if after is not None:
        here = select(amount).where(Parameter.job_id == job_id, Parameter.position == position)
        reached = session.scalar(here)
        if reached is None:
            raise InvalidRequest(f"no tensor {after!r} in this list", param="after", code="invalid_cursor")
        statement = statement.where(or_(amount < reached, and_(amount == reached, Parameter.position > position)))
    return statement.order_by(amount.desc(), Parameter.position)


def _position(after: str) -> int:
    match = re.fullmatch(r"param-(\d{1,9})", after)
    if match is None:
        raise InvalidRequest(f"{after!r} is not the id of a tensor in this list", param="after", code="invalid_cursor")
    return int(match[1])
