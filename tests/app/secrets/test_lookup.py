"""Which secret a request to another service is made with."""

from pathlib import Path

from app.db import Database
from app.secrets import queries
from app.secrets.lookup import secret_for
from app.secrets.schemas import SecretSet
from app.vault import Vault


def test_the_narrowest_scope_decides(db: Database, tmp_path: Path):
    """A repository's before its owner's before one for everything; of this project and kind alone."""
    vault = Vault(tmp_path / "webhooks.key")

    def put(name: str, value: str, *, scope: str = "", project: str = "mine") -> None:
        with db.write() as session:
            queries.put(session, vault, project, SecretSet(name=name, kind="hub", scope=scope, value=value))

    def token(*scopes: str) -> str | None:
        found = secret_for(db, vault, "mine", "hub", scopes=scopes)
        return found.fields["token"] if found else None

    put("other", "hf_other", project="other")
    assert token("acme/tiny", "acme") is None
    put("all", "hf_all")
    put("owner", "hf_owner", scope="acme")
    assert token("acme/tiny", "acme") == "hf_owner"
    put("one", "hf_one", scope="acme/tiny")
    assert token("acme/tiny", "acme") == "hf_one"
    assert token("elsewhere/x", "elsewhere") == "hf_all"
    assert secret_for(db, vault, "mine", "s3", scopes=("acme",)) is None
