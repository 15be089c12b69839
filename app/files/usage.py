"""Whether rows of files and models still use a blob."""

from sqlalchemy import String, cast, or_, select
from sqlalchemy.orm import Session

from app.files.tables import File
from app.models.tables import Model


def blob_in_use(session: Session, blob: str) -> bool:
    """Whether any file or model uses this blob."""
    if session.scalar(select(File.id).where(File.blob == blob).limit(1)):
        return True
    # Models keep blob keys in JSON lists; a key is unique enough to search for as text.
    mention = or_(*(cast(column, String).contains(blob) for column in (Model.files, Model.tensors, Model.state)))
    return session.scalar(select(Model.id).where(mention).limit(1)) is not None
