"""Signed notes against published ones: golang.org/x/mod sumdb/note's test, and the example of C2SP signed-note."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ppml_airflow import canonical, merkle
from ppml_airflow.errors import MalformedInputError, PpmlError, VerificationError
from ppml_airflow.provenance.log import Checkpoint, LogEntry, prove
from ppml_airflow.provenance.notes import (
    SignedHead,
    key_id,
    open_note,
    sign_head,
    sign_note,
    verify_entry_proof,
    verify_head,
    write_entry_proof,
)
from ppml_airflow.signing import PublicKey, SigningKey
from tests.support.memory_tree import reader_of

GO_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_PUBLIC = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_NOTE = (
    f"{GO_TEXT}\n\u2014 PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
C2SP_PUBLIC = "AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_NOTE = (
    "This is an example message.\n\n\u2014 example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)

KEY = SigningKey.generate()
ROOT = "sha256:" + bytes(range(32)).hex()
SIGNED = SignedHead(domain_id=ROOT, epoch=2, head=Checkpoint(log_size=5, log_root=ROOT))
NOTE = sign_head(SIGNED, key=KEY)


def public(text: str) -> PublicKey:
    return PublicKey(scheme="ed25519", key=base64.b64decode(text)[1:])


def test_a_note_is_signed_as_go_signs_it() -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(base64.b64decode(GO_SECRET)[1:]))
    assert sign_note(GO_TEXT, name="PeterNeumann", key=key) == GO_NOTE


def test_published_notes_are_opened() -> None:
    assert key_id("PeterNeumann", key=public(GO_PUBLIC)).hex() == "c74f20a3"
    assert open_note(GO_NOTE, name="PeterNeumann", keys=[public(GO_PUBLIC)]) == GO_TEXT
    assert key_id("example.com/foo", key=public(C2SP_PUBLIC)).hex() == "530d903a"
    assert open_note(C2SP_NOTE, name="example.com/foo", keys=[public(C2SP_PUBLIC)]) == "This is an example message.\n"


def test_a_checkpoint_is_three_lines_and_a_signature() -> None:
    lines = NOTE.split("\n")
    root = base64.b64encode(bytes(range(32))).decode()
    origin = "ppml-log/" + bytes(range(32)).hex() + "/2"
    assert lines[:5] == [origin, "5", root, "", lines[4]]
    assert lines[4].startswith(f"\u2014 {origin} ")
    assert lines[5:] == [""]


def test_a_checkpoint_says_what_was_signed() -> None:
    assert verify_head(NOTE, keys=[SigningKey.generate().public, KEY.public]) == SIGNED


def test_a_checkpoint_by_another_key_is_refused() -> None:
    with pytest.raises(VerificationError, match="not signed by a key of"):
        verify_head(NOTE, keys=[SigningKey.generate().public])


@pytest.mark.parametrize("at", range(len(NOTE)))
def test_no_changed_character_of_a_checkpoint_is_accepted(at: int) -> None:
    for other in ("0", "B", "\n", "="):
        changed = NOTE[:at] + other + NOTE[at + 1 :]
        if changed != NOTE:
            with pytest.raises(PpmlError):
                verify_head(changed, keys=[KEY.public])


@pytest.mark.parametrize("text", ["7\n{root}\nmore\n", "07\n{root}\n", "7\n\n{root}\n", "-7\n{root}\n", "7\nAAAA\n"])
def test_a_signed_note_that_is_no_checkpoint_is_refused(text: str) -> None:
    origin = "ppml-log/" + "ab" * 32 + "/0"
    root = base64.b64encode(bytes(32)).decode()
    note = sign_note(f"{origin}\n{text.format(root=root)}", name=origin, key=KEY)
    with pytest.raises(MalformedInputError):
        verify_head(note, keys=[KEY.public])


def test_a_note_with_two_signatures_is_refused() -> None:
    with pytest.raises(MalformedInputError, match="one signature"):
        verify_head(NOTE + NOTE.split("\n")[4] + "\n", keys=[KEY.public])


# ---------------------------------------------------------------- proofs of one entry

ENTRIES = [
    LogEntry(index=index, time="2026-11-23T01:02:03Z", kind="receipt", run_id="ab" * 16, body=ROOT)
    for index in range(5)
]


def entry_proof() -> str:
    read = reader_of(ENTRIES)
    head = Checkpoint(log_size=5, log_root="sha256:" + merkle.prove_root(5, read=read).hex())
    proof = prove([ENTRIES[3]], size=5, earlier=(), read=read)
    note = sign_head(SignedHead(domain_id=ROOT, epoch=0, head=head), key=KEY)
    return write_entry_proof(ENTRIES[3], path=proof.paths[0], checkpoint=note)


def test_a_proof_of_an_entry_is_a_tlog_proof() -> None:
    lines = entry_proof().split("\n")
    entry = base64.b64encode(canonical.encode(ENTRIES[3])).decode()
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", f"extra {entry}", "index 3"]
    assert [len(base64.b64decode(line)) for line in lines[3:6]] == [32, 32, 32]
    assert lines[6] == ""
    assert lines[7].startswith("ppml-log/")


def test_a_proof_of_an_entry_verifies() -> None:
    entry, signed = verify_entry_proof(entry_proof(), keys=[KEY.public])
    assert (entry, signed.head.log_size) == (ENTRIES[3], 5)


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: proof.replace("@v1", "@v2"),
        lambda proof: proof.replace("index 3", "index 2"),
        lambda proof: proof.replace("index 3\n", "index 3\n" + base64.b64encode(bytes(32)).decode() + "\n"),
        lambda proof: "\n".join(proof.split("\n")[:3] + proof.split("\n")[4:]),
        lambda proof: proof.replace("extra ", "extra A"),
        lambda proof: proof.partition("\n\n")[0],
        lambda proof: proof + "x" * 20000,
    ],
)
def test_a_changed_proof_of_an_entry_is_refused(change: object) -> None:
    assert callable(change)
    with pytest.raises(PpmlError):
        verify_entry_proof(change(entry_proof()), keys=[KEY.public])
