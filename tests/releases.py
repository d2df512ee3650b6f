"""A small release as tests need one: two files, their manifest and its key, of a server that exists nowhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

from common.export import CONFIG, WEIGHTS
from security.checkpoint import Checkpoint, sign_checkpoint
from security.identity import Identity, Role, SpiffeId
from security.ledger_names import origin_of
from security.manifest import (
    MANIFEST,
    VKEY,
    AdapterFacts,
    BaseFacts,
    DrawingPrivacy,
    Manifest,
    Taught,
    files_in,
    sign_manifest,
)
from security.merkle import EMPTY_ROOT
from security.note import NoteKey
from tests.ledgers import FEDERATION

SERVER = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "main"))
KEY = NoteKey(origin_of(FEDERATION), SERVER.signing.public)
OTHER = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "main"))


def released(folder: Path, server: Identity = SERVER) -> Manifest:
    """Write two small files as a release."""
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"weights" * 20)
    (folder / CONFIG).write_bytes(b"{}\n")
    manifest = about(folder, server)
    (folder / MANIFEST).write_bytes(sign_manifest(manifest, server))
    (folder / VKEY).write_text(f"{NoteKey(origin_of(server.id.federation), server.signing.public)}\n")
    return manifest


def about(folder: Path, server: Identity = SERVER) -> Manifest:
    note = sign_checkpoint(Checkpoint(origin_of(server.id.federation), 0, EMPTY_ROOT), server.signing)
    return Manifest(
        federation=server.id.federation, released_at="2026-01-02T03:04:05.678Z", software="bottega 0", run="run-1",
        round=3, rounds=3, rounds_ordered=4, base=BaseFacts(name="embedded", digest="ab" * 32),
        adapter=AdapterFacts(
            method="ffa", rank=8, targets=("to_q", "to_v"),
            digest=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        ),
        taught=(Taught(name="anna"), Taught(pseudonym="anonymous-0123456789abcdef")),
        privacy=DrawingPrivacy(unit="drawing", epsilon=8.0, delta=1e-4),
        against=("anna objects",), despite="they agreed", checkpoint=note.decode(), files=files_in(folder),
    )  # fmt: skip
