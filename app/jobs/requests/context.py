"""What the checks of a request may look at."""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.files.tables import File
from app.settings import Settings
from app.storage.blobs import Storage


@dataclass(frozen=True, slots=True)
class SubmissionContext:
    """The database, the storage and the settings, as one project's submission sees them."""

    session: Session
    storage: Storage
    settings: Settings
    project: str
    #: Files by reference, which are stored with the job that names them.
    new_files: dict[str, File] = field(default_factory=dict)
