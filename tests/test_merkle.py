"""The tree against published vectors, and against a second, literal reading of RFC 9162.

Vectors: the tree of eight leaves that Certificate Transparency's reference implementation and transparency-dev/merkle
(proof/verify_test.go at 02194e9afb6c1d95b5381350007963aa70fff472) test with.
"""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppml_airflow import merkle
from ppml_airflow.errors import VerificationError
from tests.support.memory_tree import reader_of_leaves
from tests.support.rfc9162 import audit_path, mth, subproof

LEAVES = tuple(
    map(
        bytes.fromhex,
        ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"),
    )
)
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION = (
    (0, 8, "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
           "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
           "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"),
    (5, 8, "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
           "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
           "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    (2, 3, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
    (1, 5, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
           "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
           "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"),
)  # fmt: skip
CONSISTENCY = (
    (1, 1, ""),
    (1, 8, "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
           "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
           "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"),
    (6, 8, "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
           "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
           "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
    (2, 5, "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
           "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"),
    (6, 7, "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
           "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f"
           "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
)  # fmt: skip


def leaves_of(count: int) -> list[bytes]:
    return [bytes([index % 251, index // 251]) for index in range(count)]


def read_of(leaves: list[bytes]) -> merkle.Reader:
    return reader_of_leaves(map(merkle.leaf_hash, leaves))


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_published_tree(size: int) -> None:
    assert merkle.prove_root(size, read=read_of(list(LEAVES))).hex() == ROOTS[size - 1]


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_published_inclusion_proofs_are_made_and_verified(index: int, size: int, path: str) -> None:
    assert merkle.prove_inclusions([index], size=size, read=read_of(list(LEAVES))) == (bytes.fromhex(path),)
    leaf, root = merkle.leaf_hash(LEAVES[index]), bytes.fromhex(ROOTS[size - 1])
    merkle.verify_inclusion(bytes.fromhex(path), leaf=leaf, index=index, size=size, root=root)


@pytest.mark.parametrize(("first", "size", "path"), CONSISTENCY)
def test_published_consistency_proofs_are_made_and_verified(first: int, size: int, path: str) -> None:
    assert merkle.prove_consistencies([first], size=size, read=read_of(list(LEAVES))) == (bytes.fromhex(path),)
    roots = {"first_root": bytes.fromhex(ROOTS[first - 1]), "root": bytes.fromhex(ROOTS[size - 1])}
    merkle.verify_consistency(bytes.fromhex(path), first=first, size=size, **roots)


def test_an_empty_tree_has_the_hash_of_nothing() -> None:
    assert merkle.prove_root(0, read=read_of([])).hex() == hashlib.sha256(b"").hexdigest()


# ---------------------------------------------------------------- against the second reading


def test_every_root_and_proof_up_to_forty_leaves_is_that_of_the_rfc() -> None:
    leaves = leaves_of(40)
    read = read_of(leaves)
    for size in range(1, len(leaves) + 1):
        root = mth(leaves[:size])
        assert merkle.prove_root(size, read=read) == root
        paths = merkle.prove_inclusions(range(size), size=size, read=read)
        for index, path in enumerate(paths):
            assert path == b"".join(audit_path(index, leaves[:size]))
            merkle.verify_inclusion(path, leaf=merkle.leaf_hash(leaves[index]), index=index, size=size, root=root)
        for first, path in enumerate(merkle.prove_consistencies(range(size + 1), size=size, read=read)):
            assert path == (b"".join(subproof(first, leaves[:size], b=True)) if first else b"")
            merkle.verify_consistency(path, first=first, first_root=mth(leaves[:first]), size=size, root=root)


@given(size=st.integers(1, 1200), data=st.data())
def test_any_tree_agrees_with_the_rfc(size: int, data: st.DataObject) -> None:
    leaves = leaves_of(size)
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    read, root = read_of(leaves), mth(leaves)
    (path,) = merkle.prove_inclusions([index], size=size, read=read)
    assert path == b"".join(audit_path(index, leaves))
    merkle.verify_inclusion(path, leaf=merkle.leaf_hash(leaves[index]), index=index, size=size, root=root)
    (path,) = merkle.prove_consistencies([first], size=size, read=read)
    assert path == b"".join(subproof(first, leaves, b=True))
    merkle.verify_consistency(path, first=first, first_root=mth(leaves[:first]), size=size, root=root)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(("index", "size", "path"), INCLUSION)
def test_no_changed_inclusion_proof_verifies(index: int, size: int, path: str) -> None:
    proof, leaf, root = bytes.fromhex(path), merkle.leaf_hash(LEAVES[index]), bytes.fromhex(ROOTS[size - 1])
    other = bytes(32)
    changed = [
        {"index": index - 1}, {"index": index + 1}, {"index": index ^ 2}, {"index": size}, {"index": -1},
        {"size": size * 2}, {"size": size // 2}, {"size": 0}, {"leaf": other}, {"leaf": root}, {"root": other},
        {"root": merkle.EMPTY_ROOT}, {"root": b""}, {"leaf": b""},
    ]  # fmt: skip
    for change in changed:
        arguments = {"leaf": leaf, "index": index, "size": size, "root": root, **change}
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(proof, **arguments)
    for path_ in changed_paths(proof, root=root):
        with pytest.raises(VerificationError):
            merkle.verify_inclusion(path_, leaf=leaf, index=index, size=size, root=root)


@pytest.mark.parametrize(("first", "size", "path"), CONSISTENCY[1:])
def test_no_changed_consistency_proof_verifies(first: int, size: int, path: str) -> None:
    proof, first_root, root = bytes.fromhex(path), bytes.fromhex(ROOTS[first - 1]), bytes.fromhex(ROOTS[size - 1])
    other = bytes(32)
    changed = [
        {"first": first - 1}, {"first": first + 1}, {"first": first ^ 2}, {"first": -1}, {"size": size * 2},
        {"size": size // 2}, {"first_root": other}, {"root": other}, {"first_root": root, "root": first_root},
    ]  # fmt: skip
    for change in changed:
        arguments = {"first": first, "first_root": first_root, "size": size, "root": root, **change}
        with pytest.raises(VerificationError):
            merkle.verify_consistency(proof, **arguments)
    for path_ in changed_paths(proof, root=root):
        with pytest.raises(VerificationError):
            merkle.verify_consistency(path_, first=first, first_root=first_root, size=size, root=root)


def changed_paths(proof: bytes, *, root: bytes) -> list[bytes]:
    """Nothing, garbage at either end, a hash too few, a hash inserted, every bit of the first byte of each hash."""
    paths = [b"", proof + b"x", b"x" + proof, proof + root, root + proof, proof[:-32], proof[32:], proof[:-1]]
    paths += [proof[:32] + bytes(32) + proof[32:], proof * 60]
    for start in range(0, len(proof), 32):
        for bit in range(8):
            paths.append(proof[:start] + bytes([proof[start] ^ 1 << bit]) + proof[start + 1 :])
    return paths


@pytest.mark.parametrize(
    ("first", "size", "first_root", "root", "path"),
    [
        (0, 0, b"a", b"b", b""),
        (1, 1, b"a", b"b", b""),
        (0, 1, b"a", b"b", b""),
        (1, 0, b"a", b"a", b""),
        (2, 1, b"a", b"a", b""),
        (1, 2, b"a", b"a", b""),
        (3, 4, b"a", b"a", b""),
        (1, 1, b"a", b"a", bytes(32)),
        (0, 1, merkle.EMPTY_ROOT, b"b", bytes(32)),
    ],
)
def test_degenerate_consistency_is_refused(first: int, size: int, first_root: bytes, root: bytes, path: bytes) -> None:
    with pytest.raises(VerificationError):
        merkle.verify_consistency(path, first=first, first_root=first_root, size=size, root=root)


def test_the_empty_tree_is_the_beginning_of_every_tree() -> None:
    merkle.verify_consistency(b"", first=0, first_root=merkle.EMPTY_ROOT, size=8, root=bytes.fromhex(ROOTS[7]))
