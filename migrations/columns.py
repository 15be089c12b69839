"""Column types as the migrations write them, frozen here so that old revisions do not change with the application."""

import sqlalchemy as sa

#: app.db.UtcDateTime: a time zone where the database keeps one, else fixed-width text.
UTC = sa.DateTime(timezone=True).with_variant(sa.String(26), "sqlite")
