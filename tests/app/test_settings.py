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


SIGN_IN: dict[str, Any] = {
    "oidc_issuer": "https://accounts.example.org",
    "oidc_client_id": "permafrost",
    "oidc_groups": "research=search:writer",
    "public_url": "https://tune.example.org",
}


def test_groups_of_a_provider():
    """Pairs with commas between them, or a JSON object, for names with commas and several projects."""
    assert Settings(oidc_groups=" /ml/team = search:writer, a=b=ads:reader,").grants == (
        ("/ml/team", "search", "writer"),
        ("a=b", "ads", "reader"),
    )
    text = '{"cn=ml,ou=x": ["search:writer", "ads:reader"], "chiefs": "search:admin"}'
    assert [grant.group for grant in Settings(oidc_groups=text).grants] == ["cn=ml,ou=x"] * 2 + ["chiefs"]


@pytest.mark.parametrize(
    "text",
    [
        "research",
        "research=search",
        "research=search:owner",
        "=search:reader",
        "a=:reader",
        "{",
        '{"a": 1}',
        '{"a": [[]]}',
    ],
)
def test_groups_that_are_none_are_refused(text: str):
    """At start, with what would work."""
    with pytest.raises(ValidationError, match=r"research=search:writer|not a JSON object"):
        Settings(oidc_groups=text)


def test_a_provider_makes_signing_in_required():
    """On loopback, too: whoever names a provider does not mean that everybody is admin."""
    assert Settings(**SIGN_IN).auth_required


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"oidc_client_id": ""}, "PERMAFROST_OIDC_CLIENT_ID"),
        ({"oidc_groups": " "}, "PERMAFROST_OIDC_GROUPS"),
        ({"public_url": ""}, "PERMAFROST_PUBLIC_URL"),
        ({"oidc_scopes": "email"}, "openid"),
        ({"auth": "off"}, "PERMAFROST_AUTH is off"),
        ({"oidc_issuer": "http://accounts.example.org"}, "https://host/path"),
        ({"oidc_issuer": "http://127.0.0.1.evil.example"}, "https://host/path"),
        ({"public_url": "tune.example.org"}, "https://host/path"),
        ({"public_url": "https://user@tune.example.org"}, "https://host/path"),
    ],
)
def test_half_a_provider_is_refused(others: dict[str, Any], words: str):
    """At start, by the variable."""
    with pytest.raises(ValidationError, match=re.escape(words)):
        Settings(**(SIGN_IN | others))


def test_a_worker_does_not_get_the_secret_at_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """It signs nobody in."""
    from app.cli.serve import _without_sign_in

    monkeypatch.setenv("PERMAFROST_OIDC_CLIENT_SECRET", "s3cret")
    settings = Settings(**SIGN_IN)
    assert "s3cret" not in repr(settings)
    assert not [name for name in environment(settings) if "OIDC" in name]
    assert _without_sign_in({"PERMAFROST_OIDC_CLIENT_SECRET": "a", "PATH": "b"}) == {"PATH": "b"}
