"""`permafrost migrate`: brings the database to the tables of this version."""

from app.cli.output import AsJson, print_json


def migrate(as_json: AsJson = False) -> None:
    """Bring the database tables to this version."""
    from app.settings import Settings
    from migrations.upgrade import head, upgrade

    upgrade(Settings().database)
    if as_json:
        print_json({"version": head()})
    else:
        print(f"the database tables are at version {head()}")
