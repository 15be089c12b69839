"""Turns a request into a job: whatever can be known to be wrong is refused here, before anything is stored."""

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sqlalchemy.orm import Session

from app import tracing
from app.db import new_id, now
from app.errors import Gone, ModelError, NotFound
from app.exports.destinations import check_address
from app.exports.destinations import parse as parse_destination
from app.files.queries import find_file
from app.files.quota import check_quota
from app.files.tables import File
from app.freeze.implied import implied_policy
from app.freeze.parts import bound
from app.freeze.plan import FreezePlan, resolve
from app.freeze.policy import Policy
from app.freeze.quantised import packed
from app.jobs.queue.method import method_of
from app.jobs.queue.tables import Job
from app.jobs.requests.context import SubmissionContext
from app.jobs.requests.examples import RequestExamples, find_files, read_examples
from app.jobs.requests.fit import (
    manifest_with_labels,
    refuse_data_misfits,
    refuse_device_misfits,
    refuse_more_than_the_limit,
    refuse_run_misfits,
    refuse_uneven_machines,
)
from app.jobs.requests.model_spec import model_choice
from app.jobs.requests.optimizer_groups import refuse_unreadable_groups
from app.jobs.requests.quantised_base import refuse_quantised
from app.jobs.requests.schemas import EvidenceOptions, JobCreate, Resources
from app.models.adapted import with_adapter
from app.models.catalog import ChosenModel, below_adapter, choose, find_model, similar_tensors
from app.models.manifest import Manifest
from app.specs.hyperparameters import Hyperparameters
from app.specs.models import TransformersSpec, adapter_start
from app.specs.optimizer_rules import refuse_ignored_options
from app.specs.rules import refuse_task_conflicts
from app.webhooks.addresses import Reach

#: Larger files are read by a worker, line by line, before it trains.
INLINE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """What is known of a request once everything in it has been examined."""

    policy: Policy
    chosen: ChosenModel
    examples: RequestExamples
    hyperparameters: Hyperparameters
    plan: FreezePlan | None  # None where the model's tensors are not known yet
    plan_with_labels: FreezePlan | None  # also with a head of as many classes as the file has labels, and an adapter
    #: The tensors of that plan: a job has them while it trains.
    known: Manifest | None

    @property
    def task(self) -> str:
        return self.examples.task


def prepare(context: SubmissionContext, request: JobCreate, *, idempotency_key: str | None) -> Job:
    """The row of a new job, not yet stored. Raises what `examine` raises."""
    return job_of(context, request, examine(context, request), idempotency_key=idempotency_key)


def examine(
    context: SubmissionContext,
    request: JobCreate,
    *,
    read_bytes: int = INLINE_BYTES,
    sibling: CheckedRequest | None = None,
) -> CheckedRequest:
    """Checks everything that a request names; files of up to `read_bytes` are read to their ends.

    `sibling` is a request with the same model, task, data and method that was checked in this session already: what
    does not depend on hyperparameters, policy and seed is taken from it and not read again.

    Raises InvalidRequest, PolicyError, DataError, ModelError, NotFound or QuotaSpent, each with `param`.
    """
    check_quota(context.session, context.project, asked=0, limit=context.settings.max_project_bytes)
    resources = request.resources or Resources()
    refuse_more_than_the_limit(context, resources.devices)
    _refuse_destinations(context, request)
    model = sibling.chosen if sibling else _chosen(context, request)
    refuse_quantised(context, model)
    policy = _policy(request, model)
    examples = sibling.examples if sibling else _examples(context, request, model, read_bytes=read_bytes)

    hyperparameters = Hyperparameters.from_json(request.chosen().model_dump(exclude_none=True))
    if examples.task == "preference" and hyperparameters.beta is None:
        hyperparameters = replace(hyperparameters, beta="auto")  # OpenAI's answers for DPO always have it
    if hyperparameters.frozen_dropout is None:  # absent means what it was before, in jobs of earlier versions
        hyperparameters = replace(hyperparameters, frozen_dropout=False)
    refuse_ignored_options(hyperparameters.optimizer, enforce=policy.enforce)
    validated = examples.files[1] is not None
    refuse_task_conflicts(hyperparameters, examples.task, adapter=model.spec.adapter, validated=validated)

    plan = _plan(context, policy, model, examples.task)
    policy = _bound(context, policy, model, examples.task, plan)
    tensors = model.tensors_for(examples.task)
    refuse_unreadable_groups(hyperparameters.optimizer, tensors, plan, enforce=policy.enforce)
    known = _known(context, model, examples)
    plan_with_labels = plan or _plan_with_labels(policy, model, known)
    refuse_run_misfits(hyperparameters, model, examples, plan_with_labels)
    refuse_uneven_machines(resources.machines, devices=resources.devices)
    refuse_device_misfits(hyperparameters, examples.task, devices=resources.devices, strategy=resources.strategy)
    return CheckedRequest(policy, model, examples, hyperparameters, plan, plan_with_labels, known)


def job_of(
    context: SubmissionContext, request: JobCreate, checked: CheckedRequest, *, idempotency_key: str | None
) -> Job:
    """The row of a job whose request has been examined; a seed is drawn where the request has none."""
    training, validation = checked.examples.files
    resources = request.resources or Resources()
    hyperparameters = checked.hyperparameters.to_json()
    return Job(
        id=new_id("ftjob"),
        project=context.project,
        status="queued" if checked.examples.all_read else "validating_files",
        priority=request.priority,
        model=checked.chosen.name,
        alias=checked.chosen.alias,
        model_spec=checked.chosen.spec.to_json(),
        base_model=checked.chosen.base_id,
        task=checked.task,
        training_file=training.id,
        validation_file=validation.id if validation else None,
        data=checked.examples.data.to_json(),
        suffix=request.suffix,
        seed=request.seed if request.seed is not None else secrets.randbelow(2**31),
        hyperparameters=hyperparameters,
        method=method_of(checked.task, hyperparameters),
        meta=request.metadata,
        tags=list(dict.fromkeys(request.tags or [])),
        retries=request.retries,
        devices=resources.devices,
        machines=resources.machines,
        strategy=resources.strategy,
        device=resources.device,
        integrations=None,
        freeze_policy=checked.policy.to_json(),
        freeze_plan=checked.plan.counts() if checked.plan else None,
        evidence_options=(request.evidence or EvidenceOptions()).model_dump(exclude_none=True),
        fingerprint=fingerprint(request),
        idempotency_key=idempotency_key,
        traceparent=tracing.current(),
        result_files=[],
    )


def fingerprint(request: JobCreate) -> str:
    """SHA-256 of what a request says, the same however its JSON is written."""
    content = json.dumps(request.model_dump(mode="json", exclude_unset=True, exclude={"dry_run"}), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def protect_inputs(session: Session, job: Job, *, new_files: Mapping[str, File] = MappingProxyType({})) -> None:
    """Keeps the files and models that a job needs from being deleted before the transaction ends.

    Files by reference are stored here. Raises for one that is already deleted what `examine` raises for it.
    """
    session.info.setdefault("created", job.id)  # what the audit log names, and not a file that comes first
    for file in new_files.values():
        file.created_at = now(session)
        session.add(file)
    files = {
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "model.weights": job.spec.weights,
    }
    for param, file_id in files.items():
        if file_id is not None:
            find_file(session, job.project, file_id, param=param, lock="keep")

    for model_id in (job.base_model, adapter_start(job.spec)):
        if model_id is not None:
            try:
                find_model(session, job.project, model_id, lock="keep")
            except (NotFound, Gone) as error:
                raise ModelError(error.message, param="model", code=error.code) from None


def _refuse_destinations(context: SubmissionContext, request: JobCreate) -> None:
    """InvalidRequest for a destination that nothing could ever be sent to."""
    reach = Reach.parse(context.settings.fetch_allow)
    for at, url in enumerate(request.destinations or ()):
        param = f"destinations[{at}]"
        check_address(parse_destination(url, param=param), param=param, reach=reach)


def _chosen(context: SubmissionContext, request: JobCreate) -> ChosenModel:
    return choose(context.session, context.settings, context.project, model_choice(request.model))


def _examples(
    context: SubmissionContext, request: JobCreate, model: ChosenModel, *, read_bytes: int
) -> RequestExamples:
    files = find_files(context, request, model)
    examples = read_examples(context, request, model, files, read_bytes=read_bytes)
    refuse_data_misfits(context, model, examples)
    return examples


def _policy(request: JobCreate, model: ChosenModel) -> Policy:
    """The request's policy, with what an adapter implies: the base below it is frozen."""
    policy = request.policy()
    adapter = model.spec.adapter
    if adapter is None:
        return policy
    if not adapter.merge:
        return implied_policy(policy)

    # Merging changes the weights that the adapter is added to; the worker adds rules for them once it has the model.
    return policy if policy.rules else Policy.from_json({**policy.to_json(), "default": "freeze"})


def _plan(context: SubmissionContext, policy: Policy, model: ChosenModel, task: str) -> FreezePlan | None:
    """The policy resolved against the model's tensors, where they are known. Raises PolicyError if it does not fit."""
    tensors = model.tensors_for(task)
    if tensors is not None:
        return resolve(policy, tensors)

    similar = similar_tensors(context.session, context.project, model, task)
    if similar is not None:
        resolve(policy, similar)  # the names are right; the size of the head, and so the counts, may not be
    return None


def _bound(
    context: SubmissionContext, policy: Policy, model: ChosenModel, task: str, plan: FreezePlan | None
) -> Policy:
    """The policy with names in place of parts of the model, where its tensors are known; else a worker does that."""
    if plan is not None:
        return plan.policy
    similar = similar_tensors(context.session, context.project, model, task)
    return bound(policy, similar) if similar is not None else policy


def _known(context: SubmissionContext, model: ChosenModel, examples: RequestExamples) -> Manifest | None:
    """The tensors that a job trains, with its adapter's; None where only the loaded model shows them.

    A merged adapter's are not known: a job trains others than those that its result has.
    """
    adapter = model.spec.adapter
    if adapter is None:
        return manifest_with_labels(model, examples)
    below = manifest_with_labels(below_adapter(context.session, context.settings, context.project, model), examples)
    if below is None or adapter.merge:
        return None
    if isinstance(model.spec, TransformersSpec) and model.spec.quantize is not None:
        below = replace(below, tensors=packed(below.tensors, model.spec.quantize))
    try:
        return with_adapter(Policy(), below, adapter)[1]
    except ModelError as error:
        if error.code != "model_not_described":
            raise
        return None


def _plan_with_labels(policy: Policy, model: ChosenModel, known: Manifest | None) -> FreezePlan | None:
    """The policy resolved over the tensors that are known, with what it implies for an adapter's."""
    if known is None:
        return None
    return resolve(implied_policy(policy, known.initialised) if model.spec.adapter else policy, known.tensors)
