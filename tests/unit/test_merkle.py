"""The tree of RFC 6962: against its published vectors, the definition written out, and another implementation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pymerkle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import LedgerError
from security.merkle import (
    EMPTY_ROOT,
    MOST_ENTRIES,
    Frontier,
    Nodes,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    bytes.fromhex(root)
    for root in (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
"""Leaves and roots of the reference tree of Certificate Transparency (transparency-dev/merkle, testonly)."""

INCLUSION = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): INCLUSION[0, 8],
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
"""Proofs of that tree, as published with it."""


def nodes_of(leaves: Sequence[bytes]) -> Nodes:
    """Return the complete subtrees over leaves, by the frontier."""
    frontier, known = Frontier(), {}
    for index, leaf in enumerate(leaves):
        known[0, index] = leaf_hash(leaf)
        known |= {(level, number): made for level, number, made in frontier.append(leaf_hash(leaf))}
    return lambda level, number: known[level, number]


def mth(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it stands there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = largest_power_under(len(leaves))
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = largest_power_under(len(leaves))
    return [*path(m, leaves[:k]), mth(leaves[k:])] if m < k else [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """RFC 6962, section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = largest_power_under(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def largest_power_under(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def hashes(texts: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(text) for text in texts]


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf_hash(leaf))
    assert frontier.root() == root_of(size, nodes_of(LEAVES)) == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int) -> None:
    proof = inclusion_proof(index, size, nodes_of(LEAVES))
    assert proof == hashes(INCLUSION[index, size])
    verify_inclusion(leaf_hash(LEAVES[index]), index, size, proof, ROOTS[size])


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_consistency_proofs_are_the_published_ones(old: int, new: int) -> None:
    proof = consistency_proof(old, new, nodes_of(LEAVES))
    assert proof == hashes(CONSISTENCY[old, new])
    verify_consistency(old, new, proof, ROOTS[old], ROOTS[new])


def test_hashes_of_nothing_are_the_published_ones() -> None:
    assert ROOTS[0] == EMPTY_ROOT
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"L123456").hex() == "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"


@given(st.integers(1, 70), st.data())
def test_proofs_are_those_of_the_definition_and_hold(size: int, data: st.DataObject) -> None:
    leaves = [b"entry %d" % number for number in range(size)]
    nodes = nodes_of(leaves)
    new = data.draw(st.integers(1, size))
    index, old = data.draw(st.integers(0, new - 1)), data.draw(st.integers(1, new))
    assert root_of(new, nodes) == mth(leaves[:new])
    assert inclusion_proof(index, new, nodes) == path(index, leaves[:new])
    assert consistency_proof(old, new, nodes) == subproof(old, leaves[:new], True)
    verify_inclusion(leaf_hash(leaves[index]), index, new, path(index, leaves[:new]), mth(leaves[:new]))
    verify_consistency(old, new, subproof(old, leaves[:new], True), mth(leaves[:old]), mth(leaves[:new]))


@given(st.integers(2, 40), st.data())
def test_a_proof_that_was_changed_does_not_hold(size: int, data: st.DataObject) -> None:
    leaves = [b"entry %d" % number for number in range(size)]
    nodes = nodes_of(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    root, leaf = mth(leaves), leaf_hash(leaves[index])

    def included(proof: list[bytes]) -> None:
        verify_inclusion(leaf, index, size, proof, root)

    def grown(proof: list[bytes]) -> None:
        verify_consistency(old, size, proof, mth(leaves[:old]), root)

    made = (included, inclusion_proof(index, size, nodes)), (grown, consistency_proof(old, size, nodes))
    for verify, proof in made:
        verify(proof)
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        for wrong in (proof[:at] + proof[at + 1 :], [*proof, bytes(32)], [*proof[:at], flipped, *proof[at + 1 :]]):
            with pytest.raises(LedgerError):
                verify(wrong)


@given(st.integers(2, 40), st.data())
def test_a_proof_holds_for_nothing_else(size: int, data: st.DataObject) -> None:
    leaves = [b"entry %d" % number for number in range(size)]
    nodes, root = nodes_of(leaves), mth(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    proof, grown = inclusion_proof(index, size, nodes), consistency_proof(old, size, nodes)
    other = data.draw(st.integers(0, size - 1).filter(lambda one: one != index))
    with pytest.raises(LedgerError):
        verify_inclusion(leaf_hash(leaves[other]), index, size, proof, root)
    with pytest.raises(LedgerError):
        verify_inclusion(leaf_hash(leaves[index]), other, size, proof, root)
    with pytest.raises(LedgerError):
        verify_consistency(old, size, grown, mth([*leaves[: old - 1], b"another"]), root)
    with pytest.raises(LedgerError):
        verify_consistency(old, size, grown, mth(leaves[:old]), mth([*leaves[:-1], b"another"]))


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_another_implementation_makes_and_takes_the_same(leaves: list[bytes], data: st.DataObject) -> None:
    theirs = pymerkle.InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        theirs.append_entry(leaf)
    size, nodes = len(leaves), nodes_of(leaves)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert theirs.get_root(old) == root_of(old, nodes)
    included = theirs.prove_inclusion(index + 1, size)
    assert included.path == [leaf_hash(leaves[index]), *inclusion_proof(index, size, nodes)]
    pymerkle.verify_inclusion(leaf_hash(leaves[index]), root_of(size, nodes), included)
    # Their proofs of growth are of a form of their own; they hold for our roots.
    pymerkle.verify_consistency(root_of(old, nodes), root_of(size, nodes), theirs.prove_consistency(old, size))


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_frontier_goes_on_from_stored_nodes(size: int, more: int) -> None:
    leaves = [b"%d" % number for number in range(size + more)]
    nodes, whole = nodes_of(leaves), Frontier()
    for leaf in leaves[:size]:
        whole.append(leaf_hash(leaf))
    again = Frontier(size, nodes)
    for leaf in leaves[size:]:
        assert again.append(leaf_hash(leaf)) == whole.append(leaf_hash(leaf))
    assert again.size == whole.size == size + more
    assert again.root() == whole.root() == root_of(size + more, nodes)


def test_proofs_look_up_no_more_than_twice_the_levels() -> None:
    asked = 0

    def nodes(_level: int, _number: int) -> bytes:
        nonlocal asked
        asked += 1
        return bytes(32)

    for index, size in ((0, 1_000_000), (999_999, 1_000_000), (524_287, 1_000_000), (3, 2**20 - 1)):
        asked = 0
        inclusion_proof(index, size, nodes)
        consistency_proof(index + 1, size, nodes)
        root_of(size, nodes)
        assert asked <= 3 * 2 * 20


@pytest.mark.parametrize(
    ("old", "new", "proof", "old_root", "new_root"),
    [
        (0, 3, [], ROOTS[1], ROOTS[3]),  # another root of no entries
        (0, 3, [ROOTS[1]], ROOTS[0], ROOTS[3]),  # a proof where none is wanted
        (3, 3, [], ROOTS[3], ROOTS[2]),  # two roots of one size
        (4, 3, [], ROOTS[4], ROOTS[3]),  # shorter than before
        (2, 3, [], ROOTS[2], ROOTS[3]),  # no proof
        (2, 3, [b"short"], ROOTS[2], ROOTS[3]),
        (-1, 3, [], ROOTS[0], ROOTS[3]),
        (2, MOST_ENTRIES, [], ROOTS[2], ROOTS[3]),
        (2, 3, [ROOTS[1]] * 1000, ROOTS[2], ROOTS[3]),
        (2, 3, [leaf_hash(LEAVES[2])], b"", ROOTS[3]),
        (0, 0, [], ROOTS[0], ROOTS[1]),
    ],
)
def test_what_proves_no_growth_is_refused(
    old: int, new: int, proof: list[bytes], old_root: bytes, new_root: bytes
) -> None:
    with pytest.raises(LedgerError):
        verify_consistency(old, new, proof, old_root, new_root)


def test_every_ledger_grows_from_none_and_from_itself() -> None:
    verify_consistency(0, 0, [], ROOTS[0], ROOTS[0])
    verify_consistency(0, 5, [], ROOTS[0], ROOTS[5])
    verify_consistency(5, 5, [], ROOTS[5], ROOTS[5])
    assert consistency_proof(0, 5, nodes_of(LEAVES)) == consistency_proof(5, 5, nodes_of(LEAVES)) == []


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3), (0, -1), (0, MOST_ENTRIES)])
def test_an_entry_that_is_not_there_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(LedgerError):
        inclusion_proof(index, size, nodes_of(LEAVES))
    with pytest.raises(LedgerError):
        verify_inclusion(leaf_hash(LEAVES[0]), index, size, [], ROOTS[1])
