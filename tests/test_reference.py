"""docs/reference/documents.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from ppml_airflow import signing
from ppml_airflow.attestation import policy
from ppml_airflow.canonical import Document
from ppml_airflow.domain import documents
from ppml_airflow.provenance import log, passport, trust_bundle
from ppml_airflow.sealing import manifest
from ppml_airflow.signing import SignedDocument

PAGE = (Path(__file__).parent.parent / "docs" / "reference" / "documents.md").read_text()
SECTIONS = {text.partition("\n")[0]: text for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
INSIDE_OTHERS = {"Directory", "IntegerParam", "DecimalParam", "DateParam", "EnumParam", "BooleanParam", "TextParam"}
KINDS = {
    kind.__name__: kind
    for module in (signing, documents, manifest, policy, log, passport, trust_bundle)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Document) and kind not in (Document, SignedDocument)
}


@pytest.mark.parametrize("name", sorted(KINDS.keys() - INSIDE_OTHERS))
def test_every_document_is_described_field_by_field(name: str) -> None:
    section = SECTIONS[name].partition("\n# ")[0]
    described = re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE)
    assert described == [field.encode_name for field in msgspec.structs.fields(KINDS[name])]


@pytest.mark.parametrize("name", sorted(name for name, kind in KINDS.items() if issubclass(kind, SignedDocument)))
def test_every_payload_type_is_named(name: str) -> None:
    kind = KINDS[name]
    assert issubclass(kind, SignedDocument)
    assert f"`{kind.payload_type}`" in SECTIONS[name]


def test_nothing_is_described_that_does_not_exist() -> None:
    assert SECTIONS.keys() <= KINDS.keys()
