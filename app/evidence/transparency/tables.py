"""Tables of the transparency log: its entries, which hold digests alone, and its state as it was last signed."""

from datetime import datetime

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class LogEntry(Base):
    """An entry by its arrival. Its place in the log is given once, in its own transaction, and never changes."""

    __tablename__ = "log_entries"
    __table_args__ = (
        Index("ix_log_entries_leaf", "leaf", unique=True),
        Index("ix_log_entries_position", "position", unique=True),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    created_at: Mapped[datetime]
    leaf: Mapped[str] = mapped_column(String(64))  # RFC 9162's hash of `entry`
    subject: Mapped[str] = mapped_column(String(64), index=True)
    entry: Mapped[bytes] = mapped_column(LargeBinary)
    position: Mapped[int | None] = mapped_column(BigInteger)  # None: it waits for one


class LogState(Base):
    """One row. `sequenced` entries have a place, and `size` of them are under the signed checkpoint."""

    __tablename__ = "log_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str | None] = mapped_column(Text)  # the public note key, as a vkey
    sequenced: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    checkpoint: Mapped[str | None] = mapped_column(Text)  # the signed note, with the cosignatures of witnesses
