"""Models from a hub: what is taken, what is refused, and that nothing is asked where nothing may be."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import ModelError, SourceUnavailable
from app.secrets.kinds import OpenedSecret
from tests.hub import COMMIT, Hub, serving
from worker.supervisor import hub as hubs

pytest.importorskip("huggingface_hub", reason="the worker's dependencies are not installed")

FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"import os",
    "onnx/model.safetensors": b"another format's",
    ".hidden.json": b"{}",
    "adapter_config.json": b"{}",
    "additional_chat_templates/rag.jinja": b"{{ messages }}",
    "additional_chat_templates/run.py": b"import os",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub("acme/tiny", dict(FILES))) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield served


TOKEN = "hf_" + "c0ffee" * 5


def fetch(
    folder: Path, revision: str = "main", *, repository: str = "acme/tiny", most: int = 10_000, token: str | None = None
) -> str | None:
    """The commit. With a token, the hub has to have asked for it."""
    secret = OpenedSecret("ours", {"token": token}) if token else None
    fetched = hubs.fetch(repository, revision, folder / "hub", max_bytes=most, stop=lambda: False, secret=secret)
    assert fetched is None or fetched.private == bool(token)
    return fetched.commit if fetched else None


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_what_is_taken(hub: Hub, tmp_path: Path, revision: str) -> None:
    """Weights in safetensors, configuration and tokenizer, of the commit that the revision is; no code, no pickle."""
    assert fetch(tmp_path, revision) == COMMIT
    paths = [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and ".cache" not in path.parts]
    there = {str(path.relative_to(tmp_path / "hub")): path.read_bytes() for path in paths}
    taken = ("config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/rag.jinja")
    assert there == {name: FILES[name] for name in taken}
    assert not any(name.endswith((".py", ".bin")) for name in hub.asked)
    assert set(hub.tokens) == {None}


def test_sharded_weights_come_with_their_index(hub: Hub, tmp_path: Path) -> None:
    """All shards and the index, and not the copies in other precisions beside them."""
    shards = [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    hub.files = dict.fromkeys([*shards, "model.fp16.safetensors"], FILES["model.safetensors"])
    hub.files |= {"model.safetensors.index.json": b"{}", "config.json": b"{}"}
    fetch(tmp_path)
    assert {path.name for path in (tmp_path / "hub").glob("*.*")} >= {*shards, "model.safetensors.index.json"}
    assert not (tmp_path / "hub" / "model.fp16.safetensors").exists()


def test_offline_says_so_and_asks_nobody(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_HUB_OFFLINE: a clear error with what would work, and not one request."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="put the model's folder under PERMAFROST_MODELS_DIR") as raised:
        fetch(tmp_path)
    assert raised.value.code == "hub_offline"
    assert hub.asked == []


def test_what_cannot_be_had_is_told(hub: Hub, tmp_path: Path) -> None:
    """Unknown model or revision, gated, too large, pickles alone: each by its own code, with the part of the spec."""

    def refused(name: str, **wanted: object) -> tuple[str | None, str | None]:
        with pytest.raises(ModelError) as raised:
            fetch(tmp_path / name, **wanted)  # type: ignore[arg-type]
        return raised.value.code, raised.value.param

    assert refused("a", repository="acme/none") == ("model_not_found", "model.path")
    assert refused("b", revision="v9") == ("model_not_found", "model.revision")
    assert refused("c", most=10) == ("model_too_large", "model.path")
    hub.files = {"config.json": b"{}", "pytorch_model.bin": b"a pickle"}
    assert refused("d") == ("invalid_model", "model.path")
    hub.gated = True
    assert refused("e") == ("hub_model_gated", "model.path")


def test_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is an error with the library's own words; another attempt may reach it."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(SourceUnavailable) as raised:
        fetch(tmp_path)
    assert raised.value.code == "hub_unreachable"


def test_fetching_ends_when_nobody_wants_it(hub: Hub, tmp_path: Path) -> None:
    """A job that was cancelled meanwhile: the process is gone, and nothing is returned."""
    assert hubs.fetch("acme/tiny", "main", tmp_path / "hub", max_bytes=1, stop=lambda: True) is None
    assert not (tmp_path / "hub.json").exists() or json.loads((tmp_path / "hub.json").read_text())


def test_fetcher_executes_nothing_from_the_folder_it_was_started_in(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `huggingface_hub.py` there is any user's file, and no part of the service."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / "huggingface_hub.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    assert fetch(tmp_path) == COMMIT
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("closed", ["gated", "private"])
def test_token_opens_what_is_closed(hub: Hub, tmp_path: Path, closed: str) -> None:
    """It is sent only after the hub refused without one, and leaves nothing of itself behind."""
    setattr(hub, closed, True)
    hub.token = TOKEN
    assert fetch(tmp_path, token=TOKEN) == COMMIT
    first = hub.tokens.index(f"Bearer {TOKEN}")
    assert first > 0 and set(hub.tokens[:first]) == {None}
    left = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert left and not any(TOKEN.encode() in each for each in left)


def test_public_models_are_asked_for_without_the_token(hub: Hub, tmp_path: Path) -> None:
    """What everybody may have stays shared by all projects."""
    hub.token = TOKEN
    secret = OpenedSecret("ours", {"token": TOKEN})
    fetched = hubs.fetch("acme/tiny", "main", tmp_path / "hub", max_bytes=10_000, stop=lambda: False, secret=secret)
    assert fetched == hubs.Fetched(COMMIT, private=False)
    assert set(hub.tokens) == {None}


def test_unusable_tokens_are_refused_by_name(hub: Hub, tmp_path: Path) -> None:
    """Wrong, revoked, expired are one answer of a hub; an account without access is another. No value is repeated."""
    hub.gated, hub.token = True, "hf_another"
    with pytest.raises(ModelError, match="secret 'ours': its token is wrong, expired or revoked") as raised:
        fetch(tmp_path, token=TOKEN)
    assert raised.value.code == "secret_refused" and TOKEN not in raised.value.message
    asked = len(hub.tokens)
    assert sum(token is not None for token in hub.tokens) == 1, "nothing is tried again"
    with pytest.raises(ModelError, match="permafrost secrets set NAME --kind hub --scope acme") as raised:
        fetch(tmp_path)
    assert raised.value.code == "hub_model_gated" and len(hub.tokens) > asked


def test_other_bytes_than_announced_are_refused(hub: Hub, tmp_path: Path) -> None:
    """By the commit's own list: SHA-256 of large files, git's name of the others. The next try fetches them anew."""
    for name in ("model.safetensors", "config.json"):
        hub.wrong_bytes = {name}
        with pytest.raises(ModelError, match=f"other bytes of {name}") as raised:
            fetch(tmp_path / name)
        assert raised.value.code == "hub_wrong_bytes"
        hub.wrong_bytes = set()
        assert fetch(tmp_path / name) == COMMIT


def test_cut_download_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """Within one try, from the last whole block of the client's."""
    hub.files["model.safetensors"] = FILES["model.safetensors"] + bytes(24_000_000)
    hub.files = {name: hub.files[name] for name in ("config.json", "model.safetensors")}
    hub.cut = [1_000, 15_000_000]
    assert fetch(tmp_path, most=100_000_000) == COMMIT
    assert (tmp_path / "hub" / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert any(since > 0 for name, since in hub.ranges if name == "model.safetensors"), hub.ranges
