"""Which blobs rows still need."""

from sqlalchemy import String, cast, or_, select
from sqlalchemy.orm import Session

from app.files.tables import File
from app.models.tables import Model


def blob_in_use(session: Session, blob: str) -> bool:
    """Whether another file or any model is made of these bytes."""
    if session.scalar(select(File.id).where(File.blob == blob).limit(1)):
        return True
    # Models keep their blobs in JSON lists; the key is unique enough to be searched for as text.
    mention = or_(*(cast(column, String).contains(blob) for column in (Model.files, Model.tensors)))
    return session.scalar(select(Model.id).where(mention).limit(1)) is not None
