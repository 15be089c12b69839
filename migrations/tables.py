"""All tables of the application, as the migrations and their test see them."""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

from sqlalchemy import MetaData

import app
from app.db import Base


def tables() -> MetaData:
    """Imports every `app/<noun>/tables.py`, so that no list here can fall behind."""
    for package in iter_modules(app.__path__):
        if package.ispkg and find_spec(f"app.{package.name}.tables"):
            import_module(f"app.{package.name}.tables")
    return Base.metadata
