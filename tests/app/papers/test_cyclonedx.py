"""CycloneDX 1.7, held against the schema that the standard's library brings."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from fastapi import FastAPI

from app.papers import cyclonedx
from app.papers.facts import BillFacts
from app.papers.licences import Licence, PublishersWord
from tests.app.papers.attested import attested
from tests.app.papers.test_facts import facts
from tests.tamper.kit import World


@pytest.fixture
def known(embedded: FastAPI, tmp_path: Path) -> BillFacts:
    return facts(embedded, attested(embedded.state.backends, World(tmp_path / "world")))


def valid(document: bytes) -> Any:
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(document.decode()) is None
    return json.loads(document)


def test_the_schema_accepts_it_and_the_facts_are_in_their_places(known: BillFacts) -> None:
    """The base is an ancestor with root and licence, data has digests, the attestation is referred to."""
    document = valid(cyclonedx.build(known))
    model = document["metadata"]["component"]
    (base,) = model["pedigree"]["ancestors"]
    assert {"name": "permafrost:root", "value": known.base.root} in base["properties"]
    assert base["licenses"] == [{"license": {"acknowledgement": "declared", "id": "Apache-2.0"}}]
    assert [each["type"] for each in model["externalReferences"]] == ["attestation"]
    files = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
    assert files == {file.name: file.sha256 for file in known.files}
    (data,) = [each for each in document["components"] if each["type"] == "data"]
    assert (data["hashes"][0]["content"], data["data"][0]["type"]) == ("11" * 32, "dataset")
    card = model["modelCard"]
    assert card["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    assert {"type": "valid_accuracy", "value": "0.75"} in card["quantitativeAnalysis"]["performanceMetrics"]
    assert {"name": "permafrost:hyperparameter:n_epochs", "value": "3"} in card["properties"]


def test_the_same_facts_give_the_same_bytes(known: BillFacts) -> None:
    assert cyclonedx.build(known) == cyclonedx.build(replace(known))


@pytest.mark.parametrize(
    "licence",
    [
        Licence("llama3", None, "README.md"),
        Licence("a, b", "MIT AND CC-BY-4.0", "README.md"),
        Licence("ours <&>", None, "LICENSE", "not a link at all"),
        Licence("ours", None, "LICENSE", "https://example.org/ü x"),
    ],
)
def test_any_licence_is_valid(known: BillFacts, licence: Licence) -> None:
    """Named, combined, or with a link that is none."""
    base = replace(known.base, word=PublishersWord(licence))
    document = valid(cyclonedx.build(replace(known, base=base, kind="adapter", metrics={}, data=())))
    assert document["metadata"]["component"]["pedigree"]["ancestors"][0]["licenses"]
