"""All tables of the application, as the migrations and their test see them."""

from importlib import import_module
from pkgutil import walk_packages

from sqlalchemy import MetaData

import app
from app.db import Base


def tables() -> MetaData:
    """Imports every `tables.py` below `app`, so that no list here can fall behind."""
    for module in walk_packages(app.__path__, "app."):
        if module.name.endswith(".tables"):
            import_module(module.name)
    return Base.metadata
