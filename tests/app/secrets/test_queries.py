"""Secrets in the database: within their project, one for each scope, sealed."""

from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import Database
from app.errors import Conflict, InvalidRequest, NotFound
from app.secrets import queries
from app.secrets.kinds import SecretKind
from app.secrets.lookup import secret_for
from app.secrets.schemas import SecretSet
from app.vault import Vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "webhooks.key")


def put(
    db: Database,
    vault: Vault,
    name: str,
    value: str,
    *,
    project: str = "mine",
    kind: SecretKind = "hub",
    scope: str = "",
) -> str:
    with db.write() as session:
        wanted = SecretSet(name=name, kind=kind, scope=scope, value=value)
        return queries.put(session, vault, project, wanted).id


def token(db: Database, vault: Vault, *scopes: str, project: str = "mine") -> str | None:
    found = secret_for(db, vault, project, "hub", scopes=scopes)
    return found.fields["token"] if found else None


def test_a_name_gets_a_new_value(db: Database, vault: Vault):
    """It stays the same secret; nothing of either value is in the table."""
    first = put(db, vault, "hub", "hf_canary_one")
    assert put(db, vault, "hub", "hf_canary_two") == first
    assert token(db, vault) == "hf_canary_two"
    with db.read() as session:
        rows = session.execute(text("SELECT sealed FROM secrets")).scalars().all()
    assert len(rows) == 1 and b"canary" not in bytes(rows[0])


def test_two_secrets_of_one_scope_are_refused(db: Database, vault: Vault):
    """Which of them is used would be chance. The message names the other one."""
    put(db, vault, "hub", "hf_one", scope="acme")
    with pytest.raises(Conflict, match="'hub' is this project's hub secret for 'acme'") as refused:
        put(db, vault, "second", "hf_two", scope="acme")
    assert refused.value.code == "secret_exists"
    put(db, vault, "second", "hf_two", scope="acme", project="other")


def test_the_number_of_secrets_is_bounded(db: Database, vault: Vault, monkeypatch: pytest.MonkeyPatch):
    """New values for old names are always taken."""
    monkeypatch.setattr(queries, "MAX_SECRETS", 1)
    put(db, vault, "hub", "hf_one")
    put(db, vault, "hub", "hf_two")
    with pytest.raises(InvalidRequest) as refused:
        put(db, vault, "second", "hf_two", scope="acme")
    assert refused.value.code == "too_many_secrets"


def test_unknown_names_are_not_found(db: Database, vault: Vault):
    """Another project's, too."""
    put(db, vault, "hub", "hf_one", project="other")
    with db.read() as session, pytest.raises(NotFound):
        queries.find(session, "mine", "hub")
