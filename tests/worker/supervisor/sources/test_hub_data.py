"""Data sets of a hub: which files a split is, at one commit, digest by digest."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.files.references import HubData, hub_data
from tests.hub import COMMIT, Hub, serving
from worker.supervisor.sources import hub_data as sources
from worker.supervisor.sources.arriving import Arriving, SourceRefused

FILES = {
    "README.md": b"# data",
    "data/train-00000-of-00002.jsonl": b'{"text": "a"}\n',
    "data/train-00001-of-00002.jsonl": b'{"text": "b"}',
    "data/test-00000-of-00001.jsonl": b'{"text": "c"}\n',
}
TOKEN = "hf_" + "c0ffee" * 5


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub("acme/data", dict(FILES), kind="datasets")) as served:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            served.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield served


def fetch(url: str, folder: Path, *, token: str | None = None) -> tuple[bytes, str, str]:
    with Arriving(folder / "file", 10**6) as arriving:
        suffix, commit = sources.fetch(hub_data(url), arriving, token=token, name="ours")
    return (folder / "file").read_bytes(), suffix, commit


def test_a_split_and_a_file(hub: Hub, tmp_path: Path) -> None:
    """Shards in the order of their names, of the commit that the revision is."""
    assert fetch("hf://acme/data?split=train", tmp_path) == (b'{"text": "a"}\n{"text": "b"}\n', ".jsonl", COMMIT)
    whole = fetch("hf://datasets/acme/data@main/data/test-00000-of-00001.jsonl", tmp_path)
    assert whole == (FILES["data/test-00000-of-00001.jsonl"], ".jsonl", COMMIT)
    assert set(hub.tokens) == {None}


@pytest.mark.parametrize(
    ("names", "query", "found"),
    [
        (["train.jsonl", "test.jsonl"], "split=train", ["train.jsonl"]),
        (["my_train.csv", "my_test.csv"], "split=test", ["my_test.csv"]),
        (["all.jsonl", "README.md"], "split=train", ["all.jsonl"]),
        (["all.jsonl"], "split=test", None),
        (["en/train.jsonl", "de/train.jsonl"], "split=train", None),
        (["en/train.jsonl", "de/train.jsonl"], "split=train&config=de", ["de/train.jsonl"]),
        (["train.jsonl", "train.csv"], "split=train", None),
        (["d/train-00000-of-00002.parquet"], "split=train", None),
        (["training.jsonl", "x.jsonl"], "split=train", None),
    ],
)
def test_which_files_a_split_is(names: list[str], query: str, found: list[str] | None) -> None:
    """Whole words of a path; several sets of files, and missing shards, are refused with what there is."""
    wanted = hub_data(f"hf://acme/data?{query}")
    if found is not None:
        assert sources.files_of(names, wanted) == found
        return
    with pytest.raises(SourceRefused, match="acme/data") as refused:
        sources.files_of(names, wanted)
    assert names[0] in str(refused.value)


def test_what_cannot_be_had(hub: Hub, tmp_path: Path) -> None:
    """Each by a code of its own."""

    def refused(url: str) -> str:
        with pytest.raises(SourceRefused) as raised:
            fetch(url, tmp_path)
        return raised.value.code

    assert refused("hf://acme/none?split=train") == "source_not_found"
    assert refused("hf://acme/data@v9?split=train") == "source_revision_not_found"
    assert refused("hf://acme/data/none.jsonl") == "source_not_found"
    hub.wrong_bytes = {"data/test-00000-of-00001.jsonl"}
    assert refused("hf://acme/data?split=test") == "hub_wrong_bytes"
    hub.gated = True
    assert refused("hf://acme/data?split=test") == "hub_data_gated"


def test_gated_data_with_the_projects_token(hub: Hub, tmp_path: Path) -> None:
    """Sent only after a refusal; a token that the hub does not know is named."""
    hub.gated, hub.token = True, TOKEN
    assert fetch("hf://acme/data?split=test", tmp_path, token=TOKEN)[0] == FILES["data/test-00000-of-00001.jsonl"]
    with pytest.raises(SourceRefused, match="secret 'ours': its token is wrong") as refused:
        fetch("hf://acme/data?split=train", tmp_path, token="hf_wrong")
    assert refused.value.code == "secret_refused"
    assert HubData("a/b", None, None, "train", None).config is None
