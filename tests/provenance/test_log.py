from __future__ import annotations

import hashlib

import msgspec
import pytest

from ppml_airflow import canonical
from ppml_airflow.errors import VerificationError
from ppml_airflow.provenance.log import EMPTY_ROOT, Checkpoint, LogEntry, LogProof, chain, prove, root_at, verify_log


def make_entries(count: int) -> list[LogEntry]:
    return [
        LogEntry(
            index=index,
            time="2026-11-23T01:02:03Z",
            kind="manifest",
            run_id=None,
            body=canonical.digest_bytes(bytes([index])),
        )
        for index in range(count)
    ]


def head_of(entries: list[LogEntry]) -> Checkpoint:
    root = EMPTY_ROOT
    for entry in entries:
        root = chain(root, entry=entry)
    return Checkpoint(log_size=len(entries), log_root=root)


ENTRIES = make_entries(6)
HEAD = head_of(ENTRIES)
PROOF = prove(map(canonical.digest, ENTRIES))


def test_chain_follows_its_specification() -> None:
    leaf = hashlib.sha256(canonical.encode(ENTRIES[0])).digest()
    empty = hashlib.sha256(b"ppml/v1/log\0").digest()
    assert (
        chain(EMPTY_ROOT, entry=ENTRIES[0]) == "sha256:" + hashlib.sha256(b"ppml/v1/log\0" + empty + leaf).hexdigest()
    )


def test_every_entry_of_a_log_is_proved() -> None:
    verify_log(PROOF, head=HEAD, entries=ENTRIES)


def test_any_selection_in_order_is_proved() -> None:
    verify_log(PROOF, head=HEAD, entries=[ENTRIES[1], ENTRIES[4]])


def test_an_empty_log_has_the_empty_root() -> None:
    verify_log(prove([]), head=Checkpoint(log_size=0, log_root=EMPTY_ROOT), entries=[])


def test_root_at_finds_every_earlier_head() -> None:
    for size in range(len(ENTRIES) + 1):
        assert root_at(PROOF, size=size) == head_of(ENTRIES[:size]).log_root


def test_a_proof_of_another_size_is_refused() -> None:
    with pytest.raises(VerificationError, match="bytes, wanted 32 for each"):
        verify_log(LogProof(leaves=PROOF.leaves[:-1]), head=HEAD, entries=[])


@pytest.mark.parametrize("at", range(6 * 32))
def test_a_changed_byte_of_the_proof_is_refused(at: int) -> None:
    leaves = bytearray(PROOF.leaves)
    leaves[at] ^= 1
    with pytest.raises(VerificationError, match="does not have the root"):
        verify_log(LogProof(leaves=bytes(leaves)), head=HEAD, entries=[])


def test_two_swapped_entries_are_refused() -> None:
    leaves = PROOF.leaves[32:64] + PROOF.leaves[:32] + PROOF.leaves[64:]
    with pytest.raises(VerificationError, match="does not have the root"):
        verify_log(LogProof(leaves=leaves), head=HEAD, entries=[])


def test_a_repeated_entry_is_refused() -> None:
    with pytest.raises(VerificationError, match="repeated or out of order"):
        verify_log(PROOF, head=HEAD, entries=[ENTRIES[1], ENTRIES[1]])


def test_an_entry_out_of_order_is_refused() -> None:
    with pytest.raises(VerificationError, match="repeated or out of order"):
        verify_log(PROOF, head=HEAD, entries=[ENTRIES[2], ENTRIES[1]])


def test_an_edited_entry_is_refused() -> None:
    edited = msgspec.structs.replace(ENTRIES[3], kind="policy")
    with pytest.raises(VerificationError, match=r"entry 3 \(policy\) is not in the log"):
        verify_log(PROOF, head=HEAD, entries=[edited])


def test_an_entry_behind_the_end_is_refused() -> None:
    behind = msgspec.structs.replace(ENTRIES[3], index=6)
    with pytest.raises(VerificationError, match="entry 6"):
        verify_log(PROOF, head=HEAD, entries=[behind])


def test_a_root_behind_the_end_is_refused() -> None:
    with pytest.raises(VerificationError, match="wanted at least 7"):
        root_at(PROOF, size=7)
