"""Fetches the bytes of a training file that was given by reference, once, and pins them into its row."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.db import Database
from app.errors import DataError, NotFound, SourceUnavailable
from app.files.quota import check_quota
from app.files.references import hub_data, scheme_of, shown, store_object
from app.files.tables import File
from app.files.usage import blob_in_use
from app.jsontypes import JsonDict
from app.secrets.kinds import OpenedSecret
from app.secrets.lookup import secret_for
from app.settings import Settings
from app.storage.blobs import Blob, Storage
from app.vault import Vault
from worker.supervisor import hub
from worker.supervisor.process.fetcher import Fetcher

_MODULE: Final = "worker.supervisor.sources"


@dataclass(frozen=True, slots=True)
class FileFetcher:
    """Fetches files of one project into its storage."""

    settings: Settings
    db: Database
    storage: Storage
    project: str

    def fetch(self, file: File, *, folder: Path, param: str, stop: Callable[[], bool]) -> File | None:
        """The row with the bytes in the storage; None if `stop` became true first.

        `folder` keeps what has arrived for the next try. Raises DataError for what will be refused again, and
        SourceUnavailable for what may not.
        """
        url = str(file.source)
        if scheme_of(url) == "hf":
            hub.refuse_offline(shown(url), "upload the file")
        folder.mkdir(parents=True, exist_ok=True)
        secret = self._secret(url)
        environment = hub.hub_environment() if scheme_of(url) == "hf" else {}
        fetcher = Fetcher(_MODULE, home=folder, refusal=DataError, param=param, environment=environment)
        into = folder / "file"
        limit = str(self.settings.max_upload_bytes)
        arguments = [url, str(into), limit, self.settings.fetch_allow, secret.name if secret else ""]
        try:
            answer = fetcher.run(
                arguments, answer=folder / "answer.json", secret=secret.fields if secret else None, stop=stop
            )
        except (DataError, SourceUnavailable) as error:
            error.message = f"{shown(url)}: {error.message}"
            raise
        if answer is None:
            return None
        if into.stat().st_size == 0:
            raise DataError(f"{shown(url)} is empty", param=param, code="empty_file")
        return self._store(file, self.storage.put(into), answer, param=param)

    def _secret(self, url: str) -> OpenedSecret | None:
        vault = Vault(self.settings.webhook_key_path)
        match scheme_of(url):
            case "hf":
                scopes = hub.scopes(hub_data(url).repository)
                return secret_for(self.db, vault, self.project, "hub", scopes=scopes)
            case "s3":
                return secret_for(self.db, vault, self.project, "s3", scopes=[store_object(url).bucket])
            case _:
                return None

    def _store(self, file: File, blob: Blob, answer: JsonDict, *, param: str) -> File:
        """The row with these bytes, or with those that another job has fetched meanwhile: all read the same ones."""
        with self.db.write() as session:
            row = session.get(File, file.id, with_for_update=True)
            if row is None:
                raise NotFound(f"file {file.id!r} is gone: it was deleted after the job was made", param=param)
            if row.pending:
                check_quota(session, self.project, asked=blob.size, limit=self.settings.max_project_bytes)
                row.bytes, row.sha256, row.blob = blob.size, blob.sha256, blob.key
                row.filename, row.status = answer["filename"], "processed"
                row.source = shown(answer["source"])
            unused = row.blob != blob.key and not blob_in_use(session, blob.key)
        if unused:
            self.storage.delete(blob.key)
        return row
