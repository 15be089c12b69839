"""Puts what an attempt starts from into its folder: the base, an adapter to train on, the training files."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import select

from app.db import Database
from app.errors import DataError, ModelError, NotFound
from app.evidence.format.digest import sha256_file
from app.evidence.format.statement import FileRef
from app.files.tables import File
from app.jobs.queue.tables import Job
from app.models.catalog import folder_of
from app.models.hub_ids import hub_model_id, store_model_id
from app.models.tables import Model
from app.secrets.kinds import OpenedSecret, SecretKind
from app.secrets.lookup import secret_for
from app.settings import Settings
from app.specs.data import DataSpec
from app.specs.models import TransformersSpec, adapter_start, folder_name, without_weights
from app.storage.blobs import Storage
from app.vault import Vault
from worker.protocol import Workspace
from worker.supervisor import attempt_folder, bases, hub
from worker.supervisor.outcomes import TrainerStopped
from worker.supervisor.process.fetcher import Fetcher
from worker.supervisor.recipes import Handed
from worker.supervisor.references import FileFetcher


@dataclass(frozen=True, slots=True)
class Staging:
    """Stages one attempt at `job` in `workspace`."""

    settings: Settings
    db: Database
    storage: Storage
    job: Job
    workspace: Workspace
    _handed: dict[str, FileRef] = field(default_factory=dict)

    @property
    def handed(self) -> Handed:
        """The files that were staged beside the base, once they are."""
        return Handed(**self._handed)

    def base(self, *, initialise: Callable[[], None], should_stop: Callable[[], bool]) -> Model:
        """The model to start from, in the workspace and in the database.

        `initialise` makes the base of a torch spec without weights; `should_stop` is called while a model is
        fetched from a hub; TrainerStopped once it is true.
        """
        spec = self.job.spec
        if isinstance(spec, TransformersSpec) and spec.of_hub and self.job.base_model is None:
            fetch = self._from_store if spec.of_store else self._from_hub
            model: Model | None = fetch(spec, should_stop)
        else:
            model = self._known_base()
        if model is not None:
            attempt_folder.stage_base(self.workspace, model, self.storage)
            self._stage_adapter()
            return model
        if weights := spec.weights:
            file = self._file(weights, param="model.weights")
            attempt_folder.stage_weights(self.workspace, file.blob, self.storage)
            _refuse_changed(self.workspace.base / "model.safetensors", file, param="model.weights")
        else:
            initialise()
            bases.refuse_links(self.workspace.base)
        return self._publish_initial()

    def data(self, *, should_stop: Callable[[], bool]) -> DataSpec:
        """The job's data spec, with the paths of its files within the workspace; TrainerStopped as in `base`."""
        return replace(
            self.job.data_spec,
            training=self._stage_file("training", self.job.training_file, should_stop),
            validation=self._stage_file("validation", self.job.validation_file, should_stop),
        )

    def _from_hub(self, spec: TransformersSpec, should_stop: Callable[[], bool]) -> Model:
        """The model of a hub's repository at a commit; it is fetched once."""
        repository, revision = spec.path, spec.revision or "main"
        if hub.is_commit(revision):
            for project in (None, self.job.project):
                known = bases.find(self.db, hub_model_id(repository, revision, project=project))
                if known is not None and known.files:
                    return known
        folder = self.workspace.root.parent / "hub"  # beside the attempts, so that the next one goes on with it
        fetched = hub.fetch(
            repository,
            revision,
            folder,
            max_bytes=self.settings.max_hub_bytes,
            stop=should_stop,
            secret=self._secret("hub", hub.scopes(repository)),
        )
        if fetched is None:
            raise TrainerStopped
        owner = self.job.project if fetched.private else None
        pinned = TransformersSpec(path=repository, revision=fetched.commit)
        name = hub_model_id(repository, fetched.commit, project=owner)
        model = bases.register(self.db, self.storage, folder, model_id=name, spec=pinned, project=owner)
        shutil.rmtree(folder)
        return model

    def _from_store(self, spec: TransformersSpec, should_stop: Callable[[], bool]) -> Model:
        """The model below a prefix of an object store, by the digest of its files; it is fetched once."""
        job, prefix = self.job, spec.path
        if spec.revision is not None:
            known = bases.find(self.db, store_model_id(prefix, spec.revision, project=job.project))
            if known is not None and known.files:
                return known
        folder = self.workspace.root.parent / "store"  # beside the attempts, as a hub's model
        folder.mkdir(exist_ok=True)
        secret = self._secret("s3", [prefix.partition("://")[2].partition("/")[0]])
        arguments = [prefix, str(folder / "model"), str(self.settings.max_hub_bytes), self.settings.fetch_allow]
        module = "worker.supervisor.sources.store_model"
        answer = Fetcher(module, home=folder, refusal=ModelError, param="model.path").run(
            [*arguments, secret.name if secret else ""],
            answer=folder / "answer.json",
            secret=secret.fields if secret else None,
            stop=should_stop,
        )
        if answer is None:
            raise TrainerStopped
        revision = str(answer["revision"])
        if spec.revision not in (None, revision):
            message = f"{prefix} has other files than the pinned ones: their digest is {revision}, not {spec.revision}"
            raise ModelError(message, param="model.revision", code="base_changed")
        pinned = TransformersSpec(path=prefix, revision=revision)
        name = store_model_id(prefix, revision, project=job.project)
        model = bases.register(self.db, self.storage, folder / "model", model_id=name, spec=pinned, project=job.project)
        shutil.rmtree(folder)
        return model

    def _secret(self, kind: SecretKind, scopes: Sequence[str]) -> OpenedSecret | None:
        """The project's secret for what the scopes name."""
        return secret_for(self.db, Vault(self.settings.webhook_key_path), self.job.project, kind, scopes=scopes)

    def _known_base(self) -> Model | None:
        """The registered base of a job; a folder is registered on its first use."""
        job, initial = self.job, _initial_id(self.job)
        name = job.base_model or (job.spec.path if isinstance(job.spec, TransformersSpec) else initial)
        model = bases.find(self.db, name)
        if model is not None and model.files:
            return model
        if job.base_model and (model is None or model.kind != "base"):
            raise _gone(name, model)
        if name == initial:
            return None
        folder = folder_of(self.settings, folder_name(model.model_spec if model else job.spec), param="model.path")
        return bases.register(self.db, self.storage, folder, model_id=name)

    def _stage_adapter(self) -> None:
        start = adapter_start(self.job.spec)
        if start is None:
            return
        adapter = bases.find(self.db, start)
        if adapter is None or not adapter.files:
            raise _gone(start, adapter)
        attempt_folder.stage_adapter(self.workspace, adapter, self.storage)
        weights = next(file for file in adapter.files if file["name"] == self.workspace.adapter.name)
        self._handed["adapter"] = FileRef("adapter", weights["size"], weights["sha256"])

    def _publish_initial(self) -> Model:
        job, stored = self.job, bases.ingest(self.workspace.base, self.storage)
        spec = job.spec
        model = Model(id=_initial_id(job), project=job.project, owned_by=job.project, kind="initial", status="ready")
        model.spec, model.job_id = without_weights(spec).to_json(), job.id
        model.stored_bytes = sum(each["size"] for each in stored.files)
        return bases.publish(self.db, stored, model)

    def _file(self, file_id: str, *, param: str) -> File:
        with self.db.read() as session:
            row = session.scalar(select(File).where(File.id == file_id))
        if row is None:
            raise NotFound(f"file {file_id!r} is gone: it was deleted after the job was made", param=param)
        return row

    def _stage_file(self, name: str, file_id: str | None, should_stop: Callable[[], bool]) -> str | None:
        if file_id is None:
            return None
        param = f"{name}_file"
        file = self._file(file_id, param=param)
        if file.pending:
            file = self._fetched(name, file, should_stop, param=param)
        staged = attempt_folder.stage_data(
            self.workspace, name, filename=file.filename, blob=file.blob, storage=self.storage
        )
        _refuse_changed(self.workspace.root / staged, file, param=param)
        self._handed[name] = FileRef(name, file.bytes, file.sha256)
        return staged

    def _fetched(self, name: str, file: File, should_stop: Callable[[], bool], *, param: str) -> File:
        """A file by reference with its bytes, which are fetched for the first job that needs them."""
        fetcher = FileFetcher(self.settings, self.db, self.storage, self.job.project)
        folder = self.workspace.root.parent / f"fetched-{name}"  # beside the attempts, as a hub's model
        found = fetcher.fetch(file, folder=folder, param=param, stop=should_stop)
        if found is None:
            raise TrainerStopped
        shutil.rmtree(folder)
        return found


def _gone(name: str, model: Model | None) -> ModelError:
    why = (model.error if model else None) or "it was deleted after the job was made"
    return ModelError(f"model {name} is gone: {why}", param="model", code="model_gone")


def _refuse_changed(staged: Path, file: File, *, param: str) -> None:
    """DataError where the staged bytes are not the uploaded ones: only validated data is trained on."""
    if sha256_file(staged) != file.sha256:
        message = f"the stored bytes of {file.id} are not those that were uploaded; upload the file again"
        raise DataError(message, param=param, code="data_changed")


def _initial_id(job: Job) -> str:
    return f"init:{job.id}"
