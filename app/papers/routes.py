"""/v1/fine_tuning/jobs/{id}/bom: what a result was made of, as CycloneDX ML-BOM or by SPDX's AI profile."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from app.auth.caller import AsReader
from app.errors import Conflict, NotFound
from app.evidence.tables import Evidence
from app.http.dependencies import Blobs, Db, JobId
from app.jobs.queue.queries import find_job
from app.openapi.prose import BOM, CONFLICT, ERRORS
from app.papers.facts import facts_of

router = APIRouter(tags=["Evidence"], responses=ERRORS)

Format = Annotated[
    Literal["cyclonedx", "spdx"],
    Query(description="`cyclonedx`: CycloneDX 1.7 (ML-BOM) in JSON; `spdx`: SPDX 3.0.1 (AI profile) in JSON-LD."),
]


@router.get(
    "/fine_tuning/jobs/{fine_tuning_job_id}/bom",
    operation_id="downloadBillOfMaterials",
    summary="Download a result's bill of materials",
    response_class=Response,
    responses={**BOM, **CONFLICT},
)
def download_bom(
    fine_tuning_job_id: JobId, caller: AsReader, db: Db, storage: Blobs, *, format: Format = "cyclonedx"
) -> Response:
    """Base with root and licence, data with digests, hyperparameters, metrics, compute, and where the attestation is.

    Of the same job the same bytes. What is not known says `unknown`. It is for reading and for inventories; what is
    proved is in the attestation.
    """
    with db.read() as session:
        job = find_job(session, caller.project, fine_tuning_job_id)
        evidence = session.get(Evidence, job.id)
        if evidence is None or evidence.envelope is None:
            message = f"job {job.id} has no bill of materials: it is {job.status}, and one is made of an attestation"
            raise NotFound(message, code="no_attestation")
        try:
            facts = facts_of(session, storage, job, evidence)
        except ValueError as error:  # of an envelope, a statement, or JSON: a damaged row
            message = f"the attestation of job {job.id} cannot be read ({error}), so that nothing can be made of it"
            raise Conflict(message, param="fine_tuning_job_id") from None
    if format == "cyclonedx":
        from app.papers import cyclonedx  # its library takes as long to import as all of the API

        made, ending = cyclonedx.build(facts), "cdx"
        media_type = cyclonedx.MEDIA_TYPE
    else:
        from app.papers import spdx

        made, ending = spdx.build(facts), "spdx"
        media_type = spdx.MEDIA_TYPE
    headers = {"content-disposition": f'attachment; filename="{job.id}.{ending}.json"'}
    return Response(made, headers=headers, media_type=media_type)
