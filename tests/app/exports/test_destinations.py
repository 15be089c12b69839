"""Where results go: what is a destination, and what is refused before anything is sent."""

import pytest

from app.errors import InvalidRequest
from app.exports.destinations import Destination, check_address, parse
from app.webhooks.addresses import Reach


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("hf://acme/tuned", Destination("hf://acme/tuned", "hub", ("acme/tuned", "acme"), "acme/tuned")),
        ("s3://bucket/a/b/", Destination("s3://bucket/a/b/", "s3", ("bucket",), "bucket", "a/b")),
        (
            "mlflow://track.example.org/team%20a?model=encoder",
            Destination(
                "mlflow://track.example.org/team%20a?model=encoder",
                "mlflow",
                ("track.example.org", "track.example.org"),
                "https://track.example.org",
                "team a",
                "encoder",
            ),
        ),
        (
            "trackio+http://[::1]:7860/encoders",
            Destination(
                "trackio+http://[::1]:7860/encoders",
                "trackio",
                ("[::1]:7860", "::1"),
                "http://[::1]:7860",
                "encoders",
            ),
        ),
        (
            "wandb://api.wandb.ai/acme/encoders",
            Destination(
                "wandb://api.wandb.ai/acme/encoders",
                "wandb",
                ("api.wandb.ai", "api.wandb.ai"),
                "https://api.wandb.ai",
                "acme/encoders",
            ),
        ),
        ("wandb+offline://acme/enc", Destination("wandb+offline://acme/enc", "wandb", (), "", "acme/enc")),
    ],
)
def test_parts_of_a_destination(url: str, parts: Destination):
    """Its secret's kind and scopes, and what its exporter needs."""
    assert parse(url, param="destination") == parts
    assert parts.tracks == url.startswith(("mlflow", "trackio", "wandb"))
    assert parts.offline == url.startswith("wandb+offline")


@pytest.mark.parametrize(
    "url",
    [
        "hf://acme",
        "hf://acme/a/b",
        "s3://bucket",
        "s3://bucket/a/../b",
        "s3://Bucket/a",
        "mlflow://host",
        "mlflow://user:canary@host/a",
        "mlflow://host/a?token=canary",
        "mlflow://host:99999/a",
        "trackio://host",
        "trackio://host/a/b",
        "trackio://host/a?model=b",
        "trackio://user:canary@host/a",
        "wandb://host/project",
        "wandb://host/entity/../project",
        "wandb://host/entity/project/run",
        "wandb+offline://entity",
        "wandb+offline://entity/../../etc",
        "wandb+ftp://host/entity/project",
        "file:///tmp/a",
        "https://example.org/a",
        "s3://bucket/" + "a" * 600,
    ],
)
def test_what_is_no_destination(url: str):
    """Refused by its field, with what would work."""
    with pytest.raises(InvalidRequest) as refused:
        parse(url, param="destinations[0]")
    assert (refused.value.param, refused.value.code) == ("destinations[0]", "invalid_destination")


def test_inner_tracking_servers_are_allowed_by_the_operator_alone():
    """By their address; names are looked at when connecting."""
    for url in (
        "mlflow://10.0.0.7/a",
        "mlflow+http://track.example.org/a",
        "trackio+http://127.0.0.1/a",
        "wandb://10.0.0.7/a/b",
    ):
        with pytest.raises(InvalidRequest, match="PERMAFROST_FETCH_ALLOW"):
            check_address(parse(url, param="d"), param="d", reach=Reach())
    check_address(parse("mlflow+http://10.0.0.7/a", param="d"), param="d", reach=Reach.parse("10.0.0.0/8"))
    check_address(parse("mlflow://track.example.org/a", param="d"), param="d", reach=Reach())
    check_address(parse("s3://bucket/a", param="d"), param="d", reach=Reach())
    check_address(parse("wandb+offline://a/b", param="d"), param="d", reach=Reach())
