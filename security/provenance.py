"""Checking a released adapter against its manifest, with no network and no home: what holds, one by one.

What cannot be checked does not hold. So files for which no key is trusted are compared with what their own manifest
says, and are refused all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import BottegaError, LedgerError, ProvenanceError
from security.checkpoint import open_checkpoint
from security.dsse import SignedContent
from security.ledger_names import origin_of
from security.manifest import MANIFEST, VKEY, Manifest, ReleasedFile, read_manifest_file, size_and_digest
from security.note import NoteKey, SignatureKind

MOST_VKEY_BYTES = 1024

_TRUSTED = "the federation's key is known from elsewhere"


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        what: That was checked, in words.
        holds: Whether it is so.
        found: More about it; what is wrong where it does not hold.
    """

    what: str
    holds: bool
    found: str = ""


@dataclass(frozen=True)
class Examined:
    """What came of checking a release.

    Attributes:
        checks: In the order in which they were made.
        manifest: What it says of itself; None where there is none that can be read. To be believed only if all holds.
        key: That it was held against: one that is trusted, or its own; None where there is none.
    """

    checks: tuple[Check, ...]
    manifest: Manifest | None = None
    key: NoteKey | None = None

    @property
    def holds(self) -> bool:
        """Whether everything was checked and holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    @property
    def contradictions(self) -> tuple[Check, ...]:
        """What does not hold by the release's own word: all that is wrong but that nobody vouches for the key."""
        return tuple(check for check in self.checks if not check.holds and check.what != _TRUSTED)


def examine(where: Path, trusted: Collection[NoteKey]) -> Examined:
    """Check a released folder, or one file of it, against the manifest that lies there.

    Args:
        where: The folder or its manifest, for all of it; or one file, for that alone.
        trusted: Keys of the federation's server that are known from elsewhere. With none, everything is still compared
            with the release's own key, and the release does not hold.

    Raises:
        ProvenanceError: There is nothing there.
    """
    if not where.exists():
        raise ProvenanceError("there is nothing to check", got=str(where), advice="Name a released folder or a file.")
    folder, only = (where, None) if where.is_dir() else (where.parent, where.name)
    try:
        manifest, envelope, _ = read_manifest_file(folder / MANIFEST)
    except ProvenanceError as why:
        return Examined((Check("there is a manifest that can be read", holds=False, found=_said(why)),))
    own = own_key(folder)
    key = _signer(envelope, [*trusted, *([own] if own is not None and not trusted else [])])
    checks = [Check("there is a manifest that can be read", holds=True)]
    checks += [_trusted(trusted), _signed(key, envelope), _of_its_federation(key, manifest)]
    checks += [_checkpoint(key, trusted, manifest), *_own_key(folder, own, key)]
    one_file = only is not None and only not in {MANIFEST, VKEY}
    checks += [_one(folder, str(only), manifest)] if one_file else _all(folder, manifest)
    return Examined(tuple(checks), manifest, key)


def own_key(folder: Path) -> NoteKey | None:
    """Return the key that lies beside a manifest, which vouches for nothing; None where there is none to be read."""
    try:
        with (folder / VKEY).open("rb") as content:
            written = content.read(MOST_VKEY_BYTES).decode()
        key = NoteKey.parse(written.removesuffix("\n"))
    except (OSError, ValueError, LedgerError):
        return None
    return key if written == f"{key}\n" else None


def _signer(envelope: SignedContent, keys: Collection[NoteKey]) -> NoteKey | None:
    return next((key for key in keys if key.kind is SignatureKind.ED25519 and envelope.is_by(key)), None)


def _trusted(trusted: Collection[NoteKey]) -> Check:
    found = "" if trusted else "no key was given, so all of this is the release's own word"
    return Check(_TRUSTED, bool(trusted), found)


def _signed(key: NoteKey | None, envelope: SignedContent) -> Check:
    found = f"key {envelope.key_id} of {key.name}" if key else f"not by such a key; it says {envelope.key_id}"
    return Check("the manifest is signed by that key", key is not None, found)


def _of_its_federation(key: NoteKey | None, manifest: Manifest) -> Check:
    holds = key is not None and key.name == origin_of(manifest.federation)
    return Check("it is of that key's federation", holds, manifest.federation)


def _checkpoint(key: NoteKey | None, trusted: Collection[NoteKey], manifest: Manifest) -> Check:
    what, origin, note = "the ledger's checkpoint is signed by it too", origin_of(manifest.federation), None
    # A checkpoint may be a little older than a rotation of the server's key, and so signed by another one of its keys.
    for each in [key, *trusted] if key is not None else []:
        if each is not None and each.name == origin:
            try:
                note = open_checkpoint(manifest.checkpoint.encode(), origin, each.key)
            except LedgerError:
                continue
            return Check(what, holds=True, found=f"{note.size} entries")
    return Check(what, holds=False, found="it is none, or by another key")


def _own_key(folder: Path, own: NoteKey | None, key: NoteKey | None) -> Iterator[Check]:
    if (folder / VKEY).exists():
        holds = own is not None and own == key
        yield Check(f"{VKEY} is that key", holds, "" if holds else "it is another one, or none; do not use it")


def _all(folder: Path, manifest: Manifest) -> list[Check]:
    told = {one.name for one in manifest.files} | {MANIFEST, VKEY}
    try:
        more = sum(file.name not in told for file in folder.iterdir())
    except OSError:
        more = 0  # then the files in it cannot be read either, and are told of
    found = f"{more} that the manifest does not know" if more else ""
    checks = [_file(folder, one) for one in manifest.files]
    return [*checks, Check("there is nothing else in the folder", not more, found)]


def _one(folder: Path, name: str, manifest: Manifest) -> Check:
    described = manifest.file(name)
    if described is None:
        return Check("the file is part of the release", holds=False, found="the manifest does not know it")
    return _file(folder, described)


def _file(folder: Path, described: ReleasedFile) -> Check:
    what = f"{described.name} is what was released"
    if not (folder / described.name).is_file():
        return Check(what, holds=False, found="there is no such file")
    try:
        size, digest = size_and_digest(folder / described.name)
    except OSError as cause:
        return Check(what, holds=False, found=cause.strerror or "it cannot be read")
    if digest.hex() != described.sha256 or size != described.bytes:
        return Check(what, holds=False, found=f"it was changed: SHA-256 {digest.hex()}, {size} bytes")
    return Check(what, holds=True, found=f"SHA-256 {described.sha256}, {described.cid}")


def _said(why: BottegaError) -> str:
    return why.what if why.got is None else f"{why.what} ({why.got})"
