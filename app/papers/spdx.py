"""A result's bill of materials by SPDX 3.0.1 (AI, dataset and build profiles) in JSON-LD, by the model's own bindings.

What the AI profile asks of a model and nobody has said is left out by calling the base a package, and by
`NoAssertion` for licences: nothing is made up to fill a field.
"""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from spdx_python_model import v3_0_1 as spdx

from app.evidence.format.statement import FileRef
from app.papers.facts import PREFIX, UNKNOWN, BillFacts, Part
from app.papers.licences import Licence

MEDIA_TYPE: Final = "application/spdx+json"

_NO_LICENCE: Final = "https://spdx.org/rdf/3.0.1/terms/ExpandedLicensing/NoAssertionLicense"
_BY_THEN: Final = "made by whom and when is not known; the times are when it was handed to the trainer"


def build(facts: BillFacts) -> bytes:
    """The document, in UTF-8 JSON with sorted keys. The same facts give the same bytes."""
    made = _Document(facts)
    made.fill()
    data = spdx.JSONLDSerializer().serialize_data(made.objects, force_at_graph=True)
    data["@graph"].sort(key=lambda each: (each.get("spdxId") or each.get("@id") or "", each["type"]))
    return json.dumps(data, ensure_ascii=False, indent=1, sort_keys=True).encode() + b"\n"


class _Document:
    """Collects elements under ids of their own, and the relationships between them."""

    def __init__(self, facts: BillFacts) -> None:
        self.facts = facts
        self.space = f"urn:{PREFIX}:spdx:{facts.job}:{facts.attempt}#"
        self.objects = spdx.SHACLObjectSet()
        self.elements: list[Any] = []
        self.service = f"{self.space}service"
        self.info = spdx.CreationInfo(
            _id="_:creation", specVersion="3.0.1", created=_utc(facts.issued_at), createdBy=[self.service]
        )

    def fill(self) -> None:
        """All elements: agents, the model with its base, data and run, and the document around them."""
        facts = self.facts
        self.add(spdx.SoftwareAgent, "service", name="Permafrost")
        supplier = self.add(spdx.Agent, "project", name=f"project {facts.project}")
        model = self._model(supplier)
        base = self._base()
        data = [self._data(part, supplier) for part in facts.data]
        run = self._run()
        evidence = self._attestation()
        self.relate("descends", model, "descendantOf", [base])
        if facts.kind == "adapter":
            self.relate("needs", model, "hasPrerequisite", [base])
        roles = {"training": "trainedOn", "validation": "testedOn"}
        for part, element in zip(facts.data, data, strict=True):
            if part.role in roles:
                self.relate(f"{part.role}-data", model, roles[part.role], [element])
        self.relate("run-input", run, "hasInput", [base, *data])
        self.relate("run-output", run, "hasOutput", [model])
        self.relate("evidence", model, "hasEvidence", [evidence])
        self._enclose(model)

    def add(self, kind: Any, id: str, /, **values: Any) -> Any:
        """A new element of the document."""
        element = kind(spdxId=f"{self.space}{id}", creationInfo=self.info, **values)
        self.elements.append(element)
        self.objects.add(element)
        return element

    def relate(self, name: str, source: Any, kind: str, targets: Iterable[Any]) -> None:
        self.add(
            spdx.Relationship,
            f"relationship-{name}",
            from_=source,
            relationshipType=getattr(spdx.RelationshipType, kind),
            to=list(targets),
        )

    def _model(self, supplier: Any) -> Any:
        facts = self.facts
        tensors, nbytes = facts.frozen
        model = self.add(
            spdx.ai_AIPackage,
            "model",
            name=facts.model,
            description=f"A fine-tune of {facts.base.name}",
            software_packageVersion=f"{facts.job}/{facts.attempt}",
            software_downloadLocation=f"urn:{PREFIX}:model:{quote(facts.model, safe=':')}",
            software_primaryPurpose=spdx.software_SoftwarePurpose.model,
            releaseTime=_utc(facts.issued_at),
            suppliedBy=supplier,
            ai_typeOfModel=[facts.kind],
            ai_domain=[facts.task],
            ai_informationAboutTraining="\n".join(f"{name}: {value}" for name, value in facts.named()),
            ai_limitation=f"of {tensors} tensors ({nbytes} bytes) it is stated that they are the base's, bit for bit",
            ai_hyperparameter=_entries(facts.hyperparameters),
            ai_metric=_entries(facts.metrics),
            externalRef=[
                spdx.ExternalRef(
                    externalRefType=spdx.ExternalRefType.buildMeta,
                    contentType="application/vnd.dsse.envelope.v1+json",
                    locator=[facts.attestation],
                    comment="the attestation, for `permafrost verify`; attestation.json in a packed folder",
                )
            ],
        )
        self._licences("model", model, None)
        self._files("model", model, facts.files)
        return model

    def _base(self) -> Any:
        base = self.facts.base
        said = {"root": base.root, **{f"origin-{name}": value for name, value in base.origin.items()}}
        package = self.add(
            spdx.software_Package,
            "base",
            name=base.name,
            software_primaryPurpose=spdx.software_SoftwarePurpose.model,
            comment="\n".join(f"{name}: {value}" for name, value in sorted(said.items())),
        )
        if revision := base.origin.get("revision"):
            package.software_packageVersion = revision
        self._licences("base", package, base.word.licence)
        self._files("base", package, base.files)
        return package

    def _data(self, part: Part, supplier: Any) -> Any:
        name = f"data-{part.role}"
        hashes = [_sha256(part.sha256)]
        if part.role == "adapter":
            purpose = spdx.software_SoftwarePurpose.model
            return self.add(
                spdx.software_File, name, name=part.id or name, verifiedUsing=hashes, software_primaryPurpose=purpose
            )
        seen = _utc(self.facts.started_at or self.facts.issued_at)
        element = self.add(
            spdx.dataset_DatasetPackage,
            name,
            name=part.id or f"{part.role} file",
            comment=_BY_THEN,
            verifiedUsing=hashes,
            originatedBy=[supplier],
            builtTime=seen,
            releaseTime=seen,
            software_downloadLocation=f"urn:{PREFIX}:file:{quote(part.id or part.sha256)}",
            software_primaryPurpose=spdx.software_SoftwarePurpose.data,
            dataset_datasetType=[spdx.dataset_DatasetType.noAssertion],
            dataset_datasetSize=part.size,
        )
        self._licences(name, element, None)
        return element

    def _run(self) -> Any:
        facts = self.facts
        run = self.add(
            spdx.build_Build,
            "run",
            name=facts.job,
            build_buildType="urn:permafrost:fine-tuning:v1",
            build_buildId=f"{facts.job}/{facts.attempt}",
            build_parameter=_entries(facts.hyperparameters),
            build_environment=_entries(facts.versions),
        )
        if facts.started_at and facts.finished_at:
            run.build_buildStartTime, run.build_buildEndTime = _utc(facts.started_at), _utc(facts.finished_at)
        return run

    def _attestation(self) -> Any:
        """Named by the digest of what was signed: a timestamp may be put beside it later."""
        digest = f"SHA-256 of the signed statement: {self.facts.statement}"
        keyid = f"signed by {self.facts.keyid}" if self.facts.keyid else "not signed"
        purpose = spdx.software_SoftwarePurpose.evidence
        return self.add(
            spdx.software_File,
            "attestation",
            name="attestation.json",
            description=f"{digest}; {keyid}",
            software_primaryPurpose=purpose,
        )

    def _licences(self, name: str, element: Any, licence: Licence | None) -> None:
        """The licence that is declared; what is concluded is for a reader to say."""
        declared: Any = _NO_LICENCE
        if licence is not None:
            reference = f"LicenseRef-{name}"
            custom = {} if licence.spdx else {"simplelicensing_customIdToUri": [_entry(reference, self._uri(licence))]}
            declared = self.add(
                spdx.simplelicensing_LicenseExpression,
                f"{name}-licence",
                name=licence.name,
                comment=f"declared in {licence.source}",
                simplelicensing_licenseExpression=licence.spdx or reference,
                **custom,
            )
        self.relate(f"{name}-declared", element, "hasDeclaredLicense", [declared])
        self.relate(f"{name}-concluded", element, "hasConcludedLicense", [_NO_LICENCE])

    def _uri(self, licence: Licence) -> str:
        return licence.link or f"{self.space}{licence.source}"

    def _files(self, owner: str, package: Any, files: Iterable[FileRef]) -> None:
        listed = [
            self.add(
                spdx.software_File,
                f"{owner}-file-{at}",
                name=file.name,
                verifiedUsing=[_sha256(file.sha256)],
                comment=f"{file.size} bytes",
            )
            for at, file in enumerate(files)
        ]
        if listed:
            self.relate(f"{owner}-files", package, "contains", listed)

    def _enclose(self, model: Any) -> None:
        profiles = ("core", "software", "ai", "dataset", "build", "simpleLicensing")
        conforming = [getattr(spdx.ProfileIdentifierType, each) for each in profiles]
        inside = list(self.elements)
        bom = self.add(
            spdx.software_Sbom,
            "bom",
            name=f"bill of materials of {self.facts.model}",
            profileConformance=conforming,
            rootElement=[model],
            element=inside,
            software_sbomType=[spdx.software_SbomType.build],
        )
        self.add(
            spdx.SpdxDocument,
            "document",
            name=f"bill of materials of {self.facts.model}",
            profileConformance=conforming,
            rootElement=[bom],
            element=[*inside, bom],
        )


def _entries(values: Mapping[str, str]) -> list[Any]:
    return [_entry(name, value) for name, value in values.items()]


def _entry(key: str, value: str) -> Any:
    return spdx.DictionaryEntry(key=key, value=value or UNKNOWN)


def _sha256(value: str) -> Any:
    return spdx.Hash(algorithm=spdx.HashAlgorithm.sha256, hashValue=value)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
