"""SPDX 3.0.1, read again by the bindings that are generated from the standard's own model, and by its JSON schema."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import spdx_python_model
from fastapi import FastAPI

from app.papers import spdx
from app.papers.facts import BillFacts
from app.papers.licences import Licence, PublishersWord
from tests.app.papers.attested import attested
from tests.app.papers.test_facts import facts
from tests.tamper.kit import World
from tools.npm_files import NpmFileError, file


@pytest.fixture
def known(embedded: FastAPI, tmp_path: Path) -> BillFacts:
    return facts(embedded, attested(embedded.state.backends, World(tmp_path / "world")))


def read(document: bytes) -> Any:
    """The objects of a document. The bindings refuse unknown properties, wrong types and missing values."""
    _, objects = spdx_python_model.load_data(json.loads(document))
    assert objects.link() == set()  # every reference leads to an element of the document
    return objects


def one(objects: Any, kind: str) -> Any:
    (found,) = objects.foreach_type(kind)
    return found


def test_the_model_reads_it_and_the_facts_are_in_their_places(known: BillFacts) -> None:
    """An AI package that descends from the base, was trained on the data and has evidence."""
    objects = read(spdx.build(known))
    model = one(objects, "ai_AIPackage")
    assert {entry.key: entry.value for entry in model.ai_hyperparameter} == {"n_epochs": "3", "seed": "0"}
    assert {entry.key: entry.value for entry in model.ai_metric}["valid_accuracy"] == "0.75"
    assert "compute:share-of-base: unknown" in model.ai_informationAboutTraining
    assert model.externalRef[0].locator[0] == known.attestation
    links = {
        (each.from_.name, each.relationshipType.rpartition("/")[2], getattr(to, "name", to))
        for each in objects.foreach_type("Relationship")
        for to in each.to
    }
    assert (model.name, "descendantOf", "toy") in links
    assert (model.name, "trainedOn", "file-1") in links
    assert ("toy", "hasDeclaredLicense", "apache-2.0") in links
    data = one(objects, "dataset_DatasetPackage")
    assert data.verifiedUsing[0].hashValue == "11" * 32
    base = next(each for each in objects.foreach_type("software_Package", match_subclass=False) if each.name == "toy")
    assert known.base.root in base.comment


def test_the_profiles_that_it_names_hold(known: BillFacts) -> None:
    """Models and data sets have each one declared and one concluded licence, and what the profiles ask of them."""
    objects = read(spdx.build(known))
    for each in [one(objects, "ai_AIPackage"), one(objects, "dataset_DatasetPackage")]:
        assert each.releaseTime and each.software_downloadLocation and each.software_primaryPurpose
        for kind in ("hasDeclaredLicense", "hasConcludedLicense"):
            mine = [r for r in objects.foreach_type("Relationship") if r.from_ is each]
            assert len([r for r in mine if r.relationshipType.endswith(f"/{kind}")]) == 1


@pytest.fixture(scope="module")
def schema() -> jsonschema_rs.Validator:
    """The standard's JSON schema, which an npm package has."""
    try:
        return jsonschema_rs.validator_for(json.loads(file("spdx-schema").read_bytes()))
    except NpmFileError as error:
        pytest.skip(f"the schema cannot be had: {error}")


@pytest.mark.slow
def test_the_schema_accepts_it(known: BillFacts, schema: jsonschema_rs.Validator) -> None:
    """As it is, with as little as a bill may have, and not with a member that the standard does not have."""
    base = replace(known.base, word=PublishersWord(Licence("ours <&>", None, "LICENSE", "no link")))
    bare = replace(known, base=base, kind="adapter", model="ftjob-1 (not published)", data=(), started_at=None)
    for one_of in (known, bare):
        document = json.loads(spdx.build(one_of))
        assert [error.message for error in schema.iter_errors(document)] == []
    element = next(each for each in document["@graph"] if each["type"] == "ai_AIPackage")
    for wrong in ({"ai_speed": "fast"}, {"releaseTime": "yesterday"}, {"software_primaryPurpose": "toy"}):
        graph = [element | wrong if each is element else each for each in document["@graph"]]
        assert not schema.is_valid(document | {"@graph": graph})


def test_the_same_facts_give_the_same_bytes(known: BillFacts) -> None:
    assert spdx.build(known) == spdx.build(replace(known))


def test_names_and_licences_of_any_kind_are_written(known: BillFacts) -> None:
    """A licence without an id, an adapter, a result that was not published, a job from before recipes."""
    base = replace(known.base, word=PublishersWord(Licence("ours <&>", None, "LICENSE", "no link")))
    odd = replace(known, base=base, kind="adapter", model="ftjob-1 (not published)", data=(), started_at=None)
    (licence,) = read(spdx.build(odd)).foreach_type("simplelicensing_LicenseExpression")
    assert licence.simplelicensing_licenseExpression == "LicenseRef-base"
