"""The Merkle tree of RFC 6962: hashes of entries, proofs that an entry is in, and proofs that a log only grew.

Everything is a pure function of complete subtrees. Node ``(level, index)`` is the hash over the ``2**level`` leaves
from ``index * 2**level`` on; once it is there it never changes, however far the log grows. So proofs for every size
there ever was are made from the same nodes, by a number of look-ups that grows with the logarithm of the size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from common.errors import LedgerError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of a tree without leaves."""

MOST_ENTRIES = 2**62
"""Sizes from here on are refused: no log has them, and SQLite could not count them."""

Nodes = Callable[[int, int], bytes]
"""Returns the hash of node ``(level, index)``; asked for complete subtrees only."""

_sha256 = hashlib.sha256


class Node(NamedTuple):
    """The hash over the ``2**level`` leaves from ``number * 2**level`` on."""

    level: int
    number: int
    hash: bytes


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry: SHA-256 of a zero byte and the entry (RFC 6962, section 2.1)."""
    return _sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees: SHA-256 of a one byte and both hashes (RFC 6962, section 2.1)."""
    return _sha256(b"\x01" + left + right).digest()


def root_of(size: int, nodes: Nodes) -> bytes:
    """Return the root of the tree of the first ``size`` leaves.

    Raises:
        LedgerError: There can be no such size; or ``nodes`` has not got what it takes.
    """
    _check_size(size)
    return _range_hash(0, size, nodes) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, nodes: Nodes) -> list[bytes]:
    """Return the proof that a leaf is in a tree: PATH(index, D[size]) of RFC 6962, section 2.1.1.

    Args:
        index: Of the leaf, from 0.
        size: Of the tree.
        nodes: Of the log.

    Raises:
        LedgerError: The tree has no such leaf; or ``nodes`` has not got what it takes.
    """
    _check_size(size)
    if not 0 <= index < size:
        raise LedgerError("the ledger has no such entry", got=index, expected=f"one under {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_hash(middle, end, nodes))
            end = middle
        else:
            proof.append(_range_hash(start, middle, nodes))
            start = middle
    return proof[::-1]


def consistency_proof(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """Return the proof that a tree is the beginning of another: PROOF(old, D[new]) of RFC 6962, section 2.1.2.

    Args:
        old: Size of the smaller tree. Of 0 leaves, or of all, the proof is empty.
        new: Size of the larger tree.
        nodes: Of the log.

    Raises:
        LedgerError: The sizes are none, or the wrong way round; or ``nodes`` has not got what it takes.
    """
    _check_order(old, new)
    if old in {0, new}:
        return []
    proof: list[bytes] = []
    start, end = 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_range_hash(middle, end, nodes))
            end = middle
        else:
            proof.append(_range_hash(start, middle, nodes))
            start = middle
    if start:  # else it is the whole old tree, whose root the verifier has
        proof.append(_range_hash(start, end, nodes))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Pass when a proof shows that a leaf is in the tree of a root (RFC 9162, section 2.1.3.2).

    Args:
        leaf: Its :func:`leaf_hash`.
        index: Its place, from 0.
        size: Of the tree.
        proof: From anywhere.
        root: Of the tree, as signed.

    Raises:
        LedgerError: It does not.
    """
    _check_size(size)
    _check_hashes(leaf, root, *_bounded(proof))
    if not 0 <= index < size:
        raise LedgerError("a proof is of an entry that the ledger has not got", got=index, expected=f"one under {size}")
    place, last, found = index, size - 1, leaf
    for step in proof:
        if not last:
            raise _unproved("an entry", "the proof is too long")
        if place & 1 or place == last:
            found = node_hash(step, found)
            place, last = _skip(place, last)
        else:
            found = node_hash(found, step)
        place, last = place >> 1, last >> 1
    if last:
        raise _unproved("an entry", "the proof is too short")
    if found != root:
        raise _unproved("an entry", "the proof leads to another root")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Pass when a proof shows that one tree is the beginning of another (RFC 9162, section 2.1.4.2).

    A tree without leaves is the beginning of every tree, and every tree of itself; both proofs are empty.

    Args:
        old: Size of the smaller tree.
        new: Size of the larger tree.
        proof: From anywhere.
        old_root: As seen before.
        new_root: As signed.

    Raises:
        LedgerError: It does not.
    """
    _check_order(old, new)
    _check_hashes(old_root, new_root, *_bounded(proof))
    if old in {0, new}:
        _verify_trivial(old, new, proof, old_root, new_root)
        return
    steps = iter([old_root, *proof] if not old & (old - 1) else proof)
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    before = after = next(steps, b"")
    for step in steps:
        if not last:
            raise _unproved("the earlier ledger", "the proof is too long")
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            place, last = _skip(place, last)
        else:
            after = node_hash(after, step)
        place, last = place >> 1, last >> 1
    if last:
        raise _unproved("the earlier ledger", "the proof is too short")
    if (before, after) != (old_root, new_root):
        raise _unproved("the earlier ledger", "the proof leads to another root")


class Frontier:
    """The right edge of a growing tree: the roots of its complete subtrees, from the largest to the smallest.

    Args:
        size: Leaves so far.
        nodes: Of the log; None where there are no leaves.

    Raises:
        LedgerError: There can be no such size; or ``nodes`` has not got what it takes.
    """

    def __init__(self, size: int = 0, nodes: Nodes | None = None) -> None:
        _check_size(size)
        self.size = size
        self._peaks = [nodes(*place) for place in _complete(0, size)] if nodes else []
        if len(self._peaks) != size.bit_count():
            raise LedgerError("a tree that has leaves cannot be gone on with without its nodes", got=f"{size} leaves")

    def append(self, leaf: bytes) -> list[Node]:
        """Take in the next leaf.

        Args:
            leaf: Its :func:`leaf_hash`.

        Returns:
            The nodes above the leaf that are complete now, from the lowest; none after every other leaf.
        """
        made: list[Node] = []
        peaks, place, level = self._peaks, self.size, 0
        found = leaf
        while place & 1:
            found = _sha256(b"\x01" + peaks.pop() + found).digest()
            place >>= 1
            level += 1
            made.append(Node(level, place, found))
        peaks.append(found)
        self.size += 1
        return made

    def root(self) -> bytes:
        """Return the root of the tree so far."""
        return _folded(self._peaks) if self._peaks else EMPTY_ROOT


def _complete(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the complete subtrees that leaves ``start`` to ``end`` are made of, from the largest.

    ``start`` is a multiple of the largest power of two that is not more than ``end - start``.
    """
    while start < end:
        level = (end - start).bit_length() - 1
        yield level, start >> level
        start += 1 << level


def _range_hash(start: int, end: int, nodes: Nodes) -> bytes:
    return _folded([nodes(*place) for place in _complete(start, end)])


def _folded(peaks: Sequence[bytes]) -> bytes:
    found = peaks[-1]
    for left in reversed(peaks[:-1]):
        found = node_hash(left, found)
    return found


def _split(width: int) -> int:
    """Return the largest power of two under ``width``, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _skip(place: int, last: int) -> tuple[int, int]:
    """Go up past the levels at which a node has no sibling."""
    while place and not place & 1:
        place, last = place >> 1, last >> 1
    return place, last


def _verify_trivial(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    if proof:
        raise _unproved("the earlier ledger", "the proof is too long")
    if (old == 0 and old_root != EMPTY_ROOT) or (old == new and old_root != new_root):
        raise _unproved("the earlier ledger", "two roots for one size")
    if new == 0 and new_root != EMPTY_ROOT:
        raise _unproved("the earlier ledger", "a ledger without entries has another root")


def _check_size(size: int) -> None:
    if not 0 <= size < MOST_ENTRIES:
        raise LedgerError("no ledger has this size", got=size, expected=f"0 to {MOST_ENTRIES - 1}")


def _check_order(old: int, new: int) -> None:
    _check_size(old)
    _check_size(new)
    if old > new:
        raise LedgerError(
            "a ledger became shorter", got=f"{new} entries", expected=f"the {old} that were there, or more"
        )


def _bounded(proof: Sequence[bytes]) -> Sequence[bytes]:
    if len(proof) > 2 * MOST_ENTRIES.bit_length():
        raise LedgerError("a proof is too long", got=f"{len(proof)} hashes", expected="at most two for each level")
    return proof


def _check_hashes(*hashes: bytes) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise LedgerError("a proof holds something that is no hash", expected=f"{HASH_BYTES} bytes each")


def _unproved(whose: str, why: str) -> LedgerError:
    return LedgerError(f"it is not proved that {whose} is in this ledger", got=why)
