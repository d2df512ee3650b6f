"""Making a bundle of a record, and opening one: everything that is in it is verified on the way."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from common.errors import BottegaError, LedgerError
from security.audit.bundle import Bundle, Manifest, adapter_name, checkpoint_name, entries_name, write_bundle
from security.audit.mirror import Mirror, Tell
from security.audit.record import Record, Weights
from security.audit.source import BundleSource
from security.audit.trust import Trust
from security.header import is_run
from security.identity import Peer
from security.keys import SealingPublicKey, VerifyKey
from security.ledger import Reader
from security.names import SpiffeId
from security.note import NoteKey

ENTRIES_A_PART = 5_000
MOST_NOTES = 20_000
"""Checkpoints of one bundle; of more, so many are taken at even distances, the last one among them."""

_BYTES_A_PART = 2**23

README = """\
The record of the federation {federation}: {entries} entries.

With bottega:   bottega audit verify --bundle THIS-FILE
Without:        the formats are public, and any program that knows them will do.

entries/N.jsonl         Entry number N and those after it, one a line. An entry is canonical JSON (RFC 8785); what is
                        hashed is the line without its line end.
checkpoints/SIZE.note   "The first SIZE entries have this root", signed: a C2SP signed note (c2sp.org/signed-note,
                        c2sp.org/tlog-checkpoint) with a line of the server and a line of each member who has seen it
                        (c2sp.org/tlog-cosignature).
keys/server.vkey        The server's keys, as verifiers of such notes take them. Compare them with what the operator, or
                        a member, tells you by another way: a bundle cannot vouch for itself.
keys/witnesses.vkey     The members' keys, likewise. keys/roster.signed is where they come from.
keys/ca.crt             The certificate of the federation's authority: openssl x509 -in keys/ca.crt -noout
                        -fingerprint -sha256 prints what members compared when they joined.

The root is that of RFC 6962: leaf = SHA-256(0x00 || entry), node = SHA-256(0x01 || left || right). With Python:

    import hashlib
    def root(e):
        if len(e) == 1: return hashlib.sha256(b"\\0" + e[0]).digest()
        k = 1 << (len(e) - 1).bit_length() - 1
        return hashlib.sha256(b"\\1" + root(e[:k]) + root(e[k:])).digest()

Go's golang.org/x/mod/sumdb/note opens the notes by the keys in *.vkey.
"""


def export(
    record: Record,
    file: Path,
    software: str,
    adapters: Iterable[tuple[str, int]] = (),
    updates: Iterable[tuple[str, Iterable[bytes]]] = (),
) -> Manifest:
    """Write a record into a bundle, up to its last checkpoint.

    Args:
        record: Open.
        file: Where; it must not exist.
        software: Which writes it.
        adapters: Whose weights go with it, by run and number; ``record.adapters`` has them.
        updates: More parts, named ``updates/…``, with their contents in pieces.

    Raises:
        LedgerError: There is no checkpoint yet, or the bundle cannot be written.
        BottegaError: An adapter cannot be read.
    """
    latest = record.reader.latest_checkpoint()
    if latest is None:
        raise LedgerError(
            "the ledger has no checkpoint yet",
            advice="Its server signs one when a run starts, or a member asks for it.",
        )
    weights = ((adapter_name(*key), [record.adapters[key]()]) for key in adapters)
    parts = _chained(_about(record, latest.size), _checkpoints(record.reader), _entries(record.reader, latest.size))
    return write_bundle(file, record.trust.federation, software, latest.size, _chained(parts, weights, updates))


def open_bundle(
    bundle: Bundle, folder: Path, server: Peer | None = None, key: NoteKey | None = None, tell: Tell | None = None
) -> tuple[Record, Mirror]:
    """Read a bundle into a copy of its ledger; all of it is verified.

    Args:
        bundle: Open; it stays in use.
        folder: Where the copy is made, or goes on.
        server: The federation's server as the reader has pinned it; None believes the bundle's own word.
        key: Or one of its keys, as other programs take it.
        tell: Is told how far it is.

    Returns:
        The record, and the copy, to be closed.

    Raises:
        LedgerError: It is another federation's, or does not hold.
        IdentityError: Its keys cannot be read.
    """
    trust = _trust(bundle, server, key)
    mirror = Mirror(folder / "ledger.db")
    try:
        _check_size(bundle, mirror.sync(BundleSource(bundle), trust, tell=tell).size)
        return Record(mirror.reader, trust, "a bundle", weights_in(bundle)), mirror
    except BaseException:
        mirror.close()
        raise


def _check_size(bundle: Bundle, size: int) -> None:
    if size != bundle.manifest.entries:
        raise LedgerError(
            "the bundle says of itself what is not so", got=f"{size} entries verified",
            expected=f"the {bundle.manifest.entries} of its manifest", advice="Have it exported again.",
        )  # fmt: skip


def _trust(bundle: Bundle, server: Peer | None, key: NoteKey | None) -> Trust:
    """Believe the server that the bundle names, if it is the one that the reader knows."""
    named = _read_peer(bundle.read("keys/server.json"))
    federation = named.id.federation
    if bundle.manifest.federation != federation:
        raise LedgerError("the bundle names two federations", got=bundle.manifest.federation, expected=federation)
    if server is not None and server.id.federation != federation:
        raise LedgerError(
            "the bundle is of another federation", got=federation, expected=server.id.federation,
            advice="Name a home of that federation, or none.",
        )  # fmt: skip
    trust = Trust.of(
        server or named, bundle.read("keys/roster.signed"), bundle.read("keys/ca.crt"),
        pinned=server is not None or key is not None,
    )  # fmt: skip
    if key is not None and key not in trust.server_keys:
        raise LedgerError(
            "the bundle is by another server than the key that was given", got=str(trust.server_keys[0]),
            expected=str(key), advice="Compare both with what the operator tells you by another way.",
        )  # fmt: skip
    return trust


def _about(record: Record, size: int) -> Iterator[tuple[str, Iterable[bytes]]]:
    trust = record.trust
    yield "README.txt", [README.format(federation=trust.federation, entries=size).encode()]
    yield "keys/server.vkey", [f"{key}\n".encode() for key in trust.server_keys]
    yield "keys/witnesses.vkey", [f"{key}\n".encode() for key in trust.witnesses]
    yield "keys/server.json", [_write_peer(trust.roster.server.peer)]
    yield "keys/ca.crt", [trust.certificate]
    yield "keys/roster.signed", [trust.signed_roster]


def _checkpoints(reader: Reader) -> Iterator[tuple[str, Iterable[bytes]]]:
    sizes = [int(size) for (size,) in reader.rows("SELECT size FROM ledger_checkpoints ORDER BY size")]
    step = -(-len(sizes) // MOST_NOTES)
    for size in sizes[::-1][:: step or 1][::-1]:
        if (note := reader.cosigned(size)) is not None:
            yield checkpoint_name(size), [note]


def _entries(reader: Reader, size: int) -> Iterator[tuple[str, Iterable[bytes]]]:
    start, page, length = 0, list[bytes](), 0
    for index, entry in enumerate(reader.entries(0, size)):
        if page and (len(page) >= ENTRIES_A_PART or length + len(entry) > _BYTES_A_PART):
            yield entries_name(start), page
            start, page, length = index, [], 0
        page.append(entry + b"\n")
        length += len(entry) + 1
    if page:
        yield entries_name(start), page


def weights_in(bundle: Bundle) -> dict[tuple[str, int], Weights]:
    """Return what reads the adapters in a bundle, by run and number of the round.

    Raises:
        LedgerError: One is named as no adapter is named.
    """
    found: dict[tuple[str, int], Weights] = {}
    for name in bundle.names("adapters"):
        _, run, file = (*name.split("/"), "", "")[:3]
        digits = file.removesuffix(".safetensors")
        if not is_run(run) or not digits.isdecimal() or len(digits) > 9 or adapter_name(run, int(digits)) != name:
            raise LedgerError("the bundle names an adapter as no adapter is named", got=name[:200])
        found[run, int(digits)] = partial(bundle.read, name)
    return found


def _write_peer(peer: Peer) -> bytes:
    """Write a server as members pin it (:meth:`security.identity.Peer.pin`)."""
    keys = {"verify": peer.verify.raw, "sealing": peer.sealing.raw}
    told = {"id": str(peer.id), **{name: base64.b64encode(raw).decode() for name, raw in keys.items()}}
    return json.dumps(told, indent=1).encode() + b"\n"


def _read_peer(data: bytes) -> Peer:
    try:
        told = json.loads(data)
        verify, sealing = (base64.b64decode(told[name], validate=True) for name in ("verify", "sealing"))
        return Peer(SpiffeId.parse(told["id"]), VerifyKey(verify), SealingPublicKey(sealing))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, binascii.Error, BottegaError):
        raise LedgerError("the bundle does not say who its server is", advice="Have it exported again.") from None


def _chained(
    *more: Iterable[tuple[str, Iterable[bytes]]],
) -> Iterator[tuple[str, Iterable[bytes]]]:
    for parts in more:
        yield from parts
