"""Defaults need no configuration, and the environment overrides each of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.cli.serve import environment
from app.settings import Settings


def test_embedded_defaults():
    """Without any variable everything lies under ./.permafrost, as absolute paths."""
    settings = Settings()
    home = Path.cwd() / ".permafrost"
    assert settings.database == f"sqlite:///{home}/permafrost.db"
    assert settings.broker == f"filesystem://{home}/broker" and settings.embedded
    assert settings.storage == f"file://{home}/blobs"
    assert settings.signing_key_path == home / "keys" / "signing.key"


def test_the_environment_rules(monkeypatch: pytest.MonkeyPatch):
    """The variables of the manual are the ones that are read."""
    for name, value in {
        "DATA_DIR": "/data",
        "DATABASE_URL": "postgresql://db/permafrost",
        "BROKER_URL": "redis://broker",
        "STORAGE_URL": "s3://bucket/prefix",
        "MODELS_DIR": "/models",
        "SIGNING_KEY": "/keys/signing.key",
        "AUTH": "required",
        "HOST": "0.0.0.0",
        "PORT": "9000",
    }.items():
        monkeypatch.setenv(f"PERMAFROST_{name}", value)
    settings = Settings()
    assert (settings.database, settings.broker) == ("postgresql://db/permafrost", "redis://broker")
    assert settings.storage == "s3://bucket/prefix" and settings.models == Path("/models")
    assert settings.signing_key_path == Path("/keys/signing.key") and settings.home == Path("/data")
    assert (settings.host, settings.port, settings.auth_required, settings.embedded) == ("0.0.0.0", 9000, True, False)


@pytest.mark.parametrize(
    ("host", "auth", "required"),
    [
        ("127.0.0.1", "", False),
        ("localhost", "", False),
        ("::1", "", False),
        ("127.0.0.1", "required", True),
        ("0.0.0.0", "", True),
        ("10.0.0.5", "", True),
        ("example.org", "", True),
    ],
)
def test_keys_are_asked_for_off_loopback(host: str, auth: Any, required: bool):
    """Only a loopback address goes without keys unasked."""
    assert Settings(host=host, auth=auth).auth_required is required


@pytest.mark.parametrize("url", ["mysql://u:secret@h/x", "postgresql://u:secret@h:port/x", "postgres", "redis://h:1/0"])
def test_a_database_that_is_not_spoken_is_refused(url: str) -> None:
    """With what would work, and without the password."""
    with pytest.raises(ValidationError) as refused:
        Settings(database_url=url)
    message = refused.value.errors()[0]["msg"]
    assert "postgresql://user:password@host:5432/name" in message
    assert "secret" not in message


def test_a_secret_may_be_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named like the variable in lower case; the environment goes first, and a worker looks by itself."""
    (tmp_path / "permafrost_database_url").write_text("postgresql://u:secret@h/x\n")
    settings = Settings(_secrets_dir=tmp_path)  # type: ignore[call-arg]
    assert settings.database == "postgresql://u:secret@h/x"
    monkeypatch.setattr("app.cli.serve.SECRETS", tmp_path)
    assert "secret" not in str(environment(settings))
    monkeypatch.setenv("PERMAFROST_DATABASE_URL", "sqlite:///y")
    assert Settings(_secrets_dir=tmp_path).database == "sqlite:///y"  # type: ignore[call-arg]


def test_weights_of_projects():
    """Pairs with commas between them; spaces do not matter, and others have none."""
    assert Settings(project_weights=" research=3, batch = 0.5 ,").weights == {"research": 3.0, "batch": 0.5}
    assert Settings().weights == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("research", "'research' is no pair such as research=3"),
        ("=3", "'=3' is no pair"),
        ("a=1,a=2", "a is there twice"),
        ("a=0", "the weight of a is '0': write a number above 0"),
        ("a=-1", "above 0"),
        ("a=nan", "above 0"),
        ("a=inf", "above 0"),
        ("a=much", "the weight of a is 'much'"),
    ],
)
def test_weights_that_are_none_are_refused(text: str, words: str):
    """At start, with what would work."""
    with pytest.raises(ValidationError, match=re.escape(words)):
        Settings(project_weights=text)


def test_limits_of_projects():
    """Whole numbers of devices; none, for a project that may run nothing for a while."""
    assert Settings(project_devices="batch=4, *=16,off=0").device_limits == {"batch": 4, "*": 16, "off": 0}
    for text in ("batch", "batch=-1", "batch=1.5", "batch=many"):
        with pytest.raises(ValidationError, match="batch=4"):
            Settings(project_devices=text)
