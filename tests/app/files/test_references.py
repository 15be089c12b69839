"""Training files by reference: what is one, and what is refused before anything is asked of anybody."""

import pytest

from app.errors import InvalidRequest
from app.files.references import HubData, StoreObject, check, filename_of, hub_data, is_reference, shown, store_object
from app.webhooks.addresses import Reach

PUBLIC = Reach()


def test_ids_are_no_references():
    """OpenAI's ids have no scheme."""
    assert not is_reference("file-5f0c1d2e3a4b5c6d7e8f9a0b")
    assert is_reference("s3://bucket/key") and is_reference("ftp://x")


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("hf://acme/data?split=train", HubData("acme/data", None, None, "train", None)),
        ("hf://datasets/acme/data@v1?split=test&config=en", HubData("acme/data", "v1", None, "test", "en")),
        ("hf://acme/data@refs%2Fpr?split=train", None),
        ("hf://acme/data/a/b%20c.jsonl", HubData("acme/data", None, "a/b c.jsonl", None, None)),
        ("hf://acme/data@c0ffee/train.csv", HubData("acme/data", "c0ffee", "train.csv", None, None)),
        ("hf://acme/data", None),
        ("hf://acme/data/train.csv?split=train", None),
        ("hf://acme?split=train", None),
        ("hf://acme/data/../../x.jsonl", None),
        ("hf://acme/data?split=train&token=x", None),
        ("hf://acme/data?split=a/b", None),
    ],
)
def test_data_of_a_hub(url: str, parts: HubData | None):
    """A repository with a split or a path; everything else is refused with an example."""
    if parts is not None:
        assert hub_data(url) == parts
        check(url, param="training_file", reach=PUBLIC)
        return
    with pytest.raises(InvalidRequest) as refused:
        check(url, param="training_file", reach=PUBLIC)
    assert (refused.value.code, refused.value.param) == ("invalid_reference", "training_file")


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://bucket/folder/", "s3://Bucket/key", "s3:///key"])
def test_objects_of_a_store(url: str):
    """One object, and no prefix."""
    assert store_object("s3://data/a/b.jsonl") == StoreObject("data", "a/b.jsonl")
    with pytest.raises(InvalidRequest, match="s3://bucket/key"):
        check(url, param="validation_file", reach=PUBLIC)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.jsonl",
        "https://127.0.0.1/a.jsonl",
        "https://169.254.169.254/latest",
        "https://[::1]/a.jsonl",
        "https://user:password@example.org/a.jsonl",
        "https://example.org/a b",
        "ftp://example.org/a.jsonl",
        "file:///etc/passwd",
        "https://" + "a" * 3_000,
    ],
)
def test_addresses_that_are_never_fetched(url: str):
    """Inner and link-local addresses, plain http, passwords, other schemes."""
    with pytest.raises(InvalidRequest):
        check(url, param="training_file", reach=PUBLIC)
    check("https://example.org/a.jsonl", param="training_file", reach=PUBLIC)
    check("http://10.0.0.7/a.jsonl", param="training_file", reach=Reach.parse("10.0.0.0/8"))


def test_names_and_what_is_shown():
    """The suffix says the format; a signature in a web address is shown to nobody."""
    assert filename_of("https://example.org/a/train.jsonl?X-Amz-Signature=canary") == "train.jsonl"
    assert filename_of("s3://data/a/b.parquet") == "b.parquet"
    assert filename_of("hf://acme/data@v1?split=train") == "data-train"
    assert filename_of("hf://acme/data/a/b.csv") == "b.csv"
    assert filename_of("https://example.org/") == "example.org"
    assert shown("https://example.org/a.jsonl?X-Amz-Signature=canary") == "https://example.org/a.jsonl?…"
    assert shown("hf://acme/data?split=train") == "hf://acme/data?split=train"
