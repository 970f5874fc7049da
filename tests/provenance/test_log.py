from __future__ import annotations

import hashlib

import msgspec
import pytest

from ppml_airflow import canonical, merkle
from ppml_airflow.errors import VerificationError
from ppml_airflow.provenance.log import (
    EMPTY_ROOT,
    Checkpoint,
    Consistency,
    LogEntry,
    LogProof,
    leaf_of,
    prove,
    prove_consistency,
    verify_continues,
    verify_log,
)
from tests.support.memory_tree import reader_of


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
    root = merkle.prove_root(len(entries), read=reader_of(entries))
    return Checkpoint(log_size=len(entries), log_root="sha256:" + root.hex())


ENTRIES = make_entries(6)
HEAD = head_of(ENTRIES)
READ = reader_of(ENTRIES)
PROOF = prove(ENTRIES, size=6, earlier=(), read=READ)


def test_a_leaf_is_the_hash_of_the_entrys_canonical_bytes() -> None:
    assert leaf_of(ENTRIES[0]) == hashlib.sha256(b"\0" + canonical.encode(ENTRIES[0])).digest()


def test_every_entry_of_a_log_is_proved() -> None:
    verify_log(PROOF, head=HEAD, entries=ENTRIES)


def test_any_selection_in_order_is_proved() -> None:
    chosen = [ENTRIES[1], ENTRIES[4]]
    verify_log(prove(chosen, size=6, earlier=(), read=READ), head=HEAD, entries=chosen)


def test_an_entry_is_proved_under_every_head_after_it() -> None:
    for size in range(3, 7):
        proof = prove([ENTRIES[2]], size=size, earlier=(), read=READ)
        verify_log(proof, head=head_of(ENTRIES[:size]), entries=[ENTRIES[2]])


def test_an_empty_log_has_the_empty_root() -> None:
    assert head_of([]).log_root == EMPTY_ROOT
    verify_log(LogProof(paths=(), earlier=()), head=head_of([]), entries=[])


def test_a_proof_without_a_path_for_each_entry_is_refused() -> None:
    with pytest.raises(VerificationError, match="5 paths for 6 entries"):
        verify_log(LogProof(paths=PROOF.paths[1:], earlier=()), head=HEAD, entries=ENTRIES)


def test_two_swapped_paths_are_refused() -> None:
    paths = (PROOF.paths[1], PROOF.paths[0], *PROOF.paths[2:])
    with pytest.raises(VerificationError, match="not in the log"):
        verify_log(LogProof(paths=paths, earlier=()), head=HEAD, entries=ENTRIES)


@pytest.mark.parametrize("entries", [[ENTRIES[1], ENTRIES[1]], [ENTRIES[2], ENTRIES[1]]])
def test_an_entry_repeated_or_out_of_order_is_refused(entries: list[LogEntry]) -> None:
    proof = prove(entries, size=6, earlier=(), read=READ)
    with pytest.raises(VerificationError, match="repeated or out of order"):
        verify_log(proof, head=HEAD, entries=entries)


def test_an_edited_entry_is_refused() -> None:
    edited = msgspec.structs.replace(ENTRIES[3], kind="policy")
    proof = prove([ENTRIES[3]], size=6, earlier=(), read=READ)
    with pytest.raises(VerificationError, match=r"entry 3 \(policy\) is not in the log"):
        verify_log(proof, head=HEAD, entries=[edited])


def test_an_entry_behind_the_end_is_refused() -> None:
    behind = msgspec.structs.replace(ENTRIES[3], index=6)
    with pytest.raises(VerificationError, match="entry 6"):
        verify_log(LogProof(paths=(PROOF.paths[3],), earlier=()), head=HEAD, entries=[behind])


def test_a_log_continues_each_of_its_earlier_heads() -> None:
    for size in range(7):
        proof = prove_consistency(size, second=6, read=READ)
        verify_continues(proof, earlier=head_of(ENTRIES[:size]), later=HEAD)


def test_a_log_does_not_continue_another_one() -> None:
    other = [msgspec.structs.replace(ENTRIES[0], kind="policy"), *ENTRIES[1:]]
    proof = prove_consistency(4, second=6, read=READ)
    with pytest.raises(VerificationError, match="does not continue"):
        verify_continues(proof, earlier=head_of(other[:4]), later=HEAD)


def test_a_proof_for_other_sizes_is_refused() -> None:
    proof = prove_consistency(4, second=6, read=READ)
    with pytest.raises(VerificationError, match="is for 4 to 6 entries, wanted 3 to 6"):
        verify_continues(proof, earlier=head_of(ENTRIES[:3]), later=HEAD)


def test_a_consistency_path_that_is_none_is_refused() -> None:
    with pytest.raises(VerificationError, match="multiple of 32"):
        verify_continues(Consistency(first=4, second=6, path=b"x"), earlier=head_of(ENTRIES[:4]), later=HEAD)
