"""Signed checkpoints: where a log stood, in the form that witnesses and monitors of transparency logs read.

A checkpoint is a note of three lines, origin, size and root, and one signature of the log. Refuses every other form:
more lines, more signatures, another way to write a number. The origin names the domain and the epoch: a log that was
rolled back and recovered is another log, because a log must never sign two heads that contradict each other.

Source: C2SP signed-note v1.0.0 (Ed25519, type 0x01), tlog-checkpoint, tlog-proof v1.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from ppml_airflow import canonical
from ppml_airflow.canonical import Document
from ppml_airflow.domain.documents import NonNegative
from ppml_airflow.errors import MalformedInputError, VerificationError
from ppml_airflow.merkle import HASH_BYTES
from ppml_airflow.provenance.log import Checkpoint, LogEntry, LogProof, verify_log
from ppml_airflow.signing import PublicKey, SigningKey, verify_signature
from ppml_airflow.units import Digest

MAX_NOTE_BYTES = 4096
MAX_PROOF_BYTES = 16384
_PROOF = "c2sp.org/tlog-proof@v1"
_ED25519 = b"\x01"
_NOTE = re.compile(
    r"(?P<text>(?:[^\n\ud800-\udfff]+\n)+)\n"
    r"\u2014 (?P<name>[^ \n+\ud800-\udfff]+) (?P<signature>[A-Za-z0-9+/]+={0,2})\n"
)
_TEXT = re.compile(
    r"ppml-log/(?P<domain>[0-9a-f]{64})/(?P<epoch>0|[1-9][0-9]{0,15})\n"
    r"(?P<size>0|[1-9][0-9]{0,15})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
)


class SignedHead(Document, frozen=True, kw_only=True):
    """What a signed checkpoint says."""

    domain_id: Digest
    epoch: NonNegative
    head: Checkpoint


def sign_note(text: str, *, name: str, key: SigningKey) -> str:
    """Sign a text that ends in a line feed, under the name of an Ed25519 key."""
    signature = key_id(name, key=key.public) + key.sign_bytes(text.encode())
    return f"{text}\n\u2014 {name} {_encode(signature)}\n"


def open_note(note: str, *, name: str, keys: Iterable[PublicKey]) -> str:
    """Verify a note that one of these keys signed alone, and return its text.

    Raises:
        MalformedInputError: too long, or not a note with one signature.
        VerificationError: signed under another name or by another key, or the signature is wrong.
    """
    found = _NOTE.fullmatch(note) if len(note) <= MAX_NOTE_BYTES else None
    if found is None:
        raise MalformedInputError("note is malformed; wanted lines of text, an empty one, one signature")
    signature = _decode(found["signature"], what="signature of the note")
    known = {key_id(name, key=key): key for key in keys if key.scheme == "ed25519"}
    key = known.get(signature[:4])
    if found["name"] != name or key is None:
        raise VerificationError(f"note is not signed by a key of {name}", code="unknown_signer")
    verify_signature(signature[4:], payload=found["text"].encode(), key=key, subject="note")
    return found["text"]


def key_id(name: str, *, key: PublicKey) -> bytes:
    """The four bytes by which a note calls an Ed25519 key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + key.key).digest()[:4]


def origin_of(domain_id: Digest, *, epoch: int) -> str:
    """The name of a domain's log, also that of its key."""
    return f"ppml-log/{domain_id.removeprefix('sha256:')}/{epoch}"


def sign_head(signed: SignedHead, *, key: SigningKey) -> str:
    """Write and sign a checkpoint."""
    origin = origin_of(signed.domain_id, epoch=signed.epoch)
    root = _encode(bytes.fromhex(signed.head.log_root.removeprefix("sha256:")))
    return sign_note(f"{origin}\n{signed.head.log_size}\n{root}\n", name=origin, key=key)


def verify_head(note: str, *, keys: Iterable[PublicKey]) -> SignedHead:
    """Verify a checkpoint that a log signed by one of these keys.

    Raises:
        MalformedInputError: not a checkpoint, or written in another way than it would be here.
        VerificationError: another signer.
    """
    origin, _, _ = note.partition("\n")
    found = _TEXT.fullmatch(open_note(note, name=origin, keys=keys))
    if found is None:
        raise MalformedInputError("checkpoint is malformed; wanted the log's origin, its size and its root")
    root = _decode(found["root"], what="root of the checkpoint")
    return SignedHead(
        domain_id="sha256:" + found["domain"],
        epoch=int(found["epoch"]),
        head=Checkpoint(log_size=int(found["size"]), log_root="sha256:" + root.hex()),
    )


def write_entry_proof(entry: LogEntry, *, path: bytes, checkpoint: str) -> str:
    """A proof that one entry stands in the log, in the form of C2SP tlog-proof; its extra data is the entry."""
    hashes = [path[start : start + HASH_BYTES] for start in range(0, len(path), HASH_BYTES)]
    lines = [_PROOF, f"extra {_encode(canonical.encode(entry))}", f"index {entry.index}", *map(_encode, hashes)]
    return "\n".join(lines) + "\n\n" + checkpoint


def verify_entry_proof(proof: str, *, keys: Iterable[PublicKey]) -> tuple[LogEntry, SignedHead]:
    """Verify that an entry stands in a log whose head one of these keys signed.

    Raises:
        MalformedInputError: not such a proof.
        VerificationError: another signer, or the entry is not in the log.
    """
    header, _, checkpoint = proof.partition("\n\n") if len(proof) <= MAX_PROOF_BYTES else ("", "", "")
    lines = header.split("\n")
    if len(lines) < 3 or lines[0] != _PROOF or not lines[1].startswith("extra "):
        raise MalformedInputError("log proof is malformed; wanted a C2SP tlog-proof with the entry as extra data")
    entry = canonical.decode(_decode(lines[1].removeprefix("extra "), what="entry of the proof"), into=LogEntry)
    if lines[2] != f"index {entry.index}":
        raise MalformedInputError(f"log proof is for another index than its entry, {entry.index}")
    signed = verify_head(checkpoint, keys=keys)
    path = b"".join(_decode(line, what="hash of the proof") for line in lines[3:])
    verify_log(LogProof(paths=(path,), earlier=()), head=signed.head, entries=[entry])
    return entry, signed


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _decode(text: str, *, what: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise MalformedInputError(f"{what} is not base64") from error
    if _encode(decoded) != text:
        raise MalformedInputError(f"{what} is not canonical base64")
    return decoded
