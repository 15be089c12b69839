"""A result's bill of materials as CycloneDX 1.7 (ML-BOM), made by the standard's own library.

The library has no classes for model cards and for data yet: those two members are added to the JSON that it writes,
and its schema, which has them, is what the tests hold the whole document against.
"""

import json
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
from cyclonedx.output.json import JsonV1Dot7

from app.evidence.format.statement import FileRef
from app.jsontypes import JsonDict
from app.papers.facts import PREFIX, UNKNOWN, BillFacts, Part
from app.papers.licences import Licence

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json; version=1.7"

_MODEL: Final = "model"
_BASE: Final = "base"
_UNSUPERVISED: Final = ("causal-lm", "masked-lm")  # texts without labels


def build(facts: BillFacts) -> bytes:
    """The document, in UTF-8 JSON with sorted keys. The same facts give the same bytes."""
    model = _model(facts)
    data = [_data(part) for part in facts.data]
    software = [
        Component(name=name, version=version, type=ComponentType.LIBRARY, bom_ref=f"software-{name}")
        for name, version in sorted(facts.versions.items())
    ]
    model_needs = [Dependency(ref=each.bom_ref) for each in [*data, *software]]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"urn:{PREFIX}:cyclonedx:{facts.job}/{facts.attempt}"),
        metadata=BomMetaData(
            timestamp=facts.issued_at,
            component=model,
            lifecycles=[PredefinedLifecycle(phase=LifecyclePhase.BUILD)],
            tools=[],
        ),
        components=[*data, *software],
        dependencies=[Dependency(ref=model.bom_ref, dependencies=model_needs), *model_needs],
    )
    document: JsonDict = json.loads(JsonV1Dot7(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _card(facts)
    for component in document.get("components", ()):
        if component["type"] == "data":
            component["data"] = [{"type": "dataset", "name": component["name"]}]
    return json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


def _model(facts: BillFacts) -> Component:
    attestation = ExternalReference(
        type=ExternalReferenceType.ATTESTATION,
        url=XsUri(facts.attestation),
        comment="a DSSE envelope for `permafrost verify`; attestation.json in a packed folder",
    )
    tensors, nbytes = facts.frozen
    return Component(
        name=facts.model,
        version=f"{facts.job}/{facts.attempt}",
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL,
        description=f"A fine-tune of {facts.base.name}: {_kind(facts)}",
        components=_files(_MODEL, facts.files),
        pedigree=Pedigree(
            ancestors=[_base(facts)],
            notes=f"{tensors} tensors ({nbytes} bytes) are stated to be bit-identical to the ancestor's",
        ),
        external_references=[attestation],
        properties=_properties(dict(facts.named())),
    )


def _kind(facts: BillFacts) -> str:
    return "an adapter to be loaded beside it" if facts.kind == "adapter" else "a whole model"


def _base(facts: BillFacts) -> Component:
    base, licence = facts.base, facts.base.word.licence
    named = {"root": base.root, **{f"origin:{name}": value for name, value in base.origin.items()}}
    named["license:source"] = licence.source if licence else UNKNOWN
    return Component(
        name=base.name,
        version=base.origin.get("revision"),
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_BASE,
        components=_files(_BASE, base.files),
        licenses=[_licence(licence)] if licence else [],
        properties=_properties(named),
    )


def _licence(licence: Licence) -> License:
    """As the publisher declares it: nobody here has concluded that it holds."""
    factory = LicenseFactory()
    return factory.make_from_string(
        licence.spdx or licence.name,
        license_url=XsUri(licence.link) if licence.link else None,
        license_acknowledgement=LicenseAcknowledgement.DECLARED,
    )


def _data(part: Part) -> Component:
    return Component(
        name=part.id or f"{part.role} file",
        type=ComponentType.DATA if part.role != "adapter" else ComponentType.FILE,
        bom_ref=f"data-{part.role}",
        description=f"{part.role} file",
        hashes=[_sha256(part.sha256)],
        properties=_properties({"role": part.role, "size": str(part.size)}),
    )


def _files(owner: str, files: Iterable[FileRef]) -> list[Component]:
    return [
        Component(
            name=file.name,
            type=ComponentType.FILE,
            bom_ref=f"{owner}-file-{file.name}",
            hashes=[_sha256(file.sha256)],
            properties=_properties({"size": str(file.size)}),
        )
        for file in files
    ]


def _card(facts: BillFacts) -> JsonDict:
    """The model card: what was trained for, on which data, with which settings, and how well it did."""
    approach = "self-supervised" if facts.task in _UNSUPERVISED else "supervised"
    parameters: JsonDict = {"approach": {"type": approach}, "task": facts.task}
    datasets = [{"ref": f"data-{part.role}"} for part in facts.data if part.role != "adapter"]
    card: JsonDict = {"modelParameters": parameters | ({"datasets": datasets} if datasets else {})}
    if facts.metrics:
        metrics = [{"type": name, "value": value} for name, value in facts.metrics.items()]
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    settings = {f"hyperparameter:{name}": value for name, value in facts.hyperparameters.items()}
    card["properties"] = [{"name": f"{PREFIX}:{name}", "value": value} for name, value in settings.items()]
    return card


def _properties(named: Mapping[str, Any]) -> list[Property]:
    return [Property(name=f"{PREFIX}:{name}", value=value) for name, value in named.items()]


def _sha256(value: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=value)
