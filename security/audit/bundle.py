"""The bundle: a record and what it takes to verify it in one file, for who has no server to ask.

A zip file, so that any program opens it:

* ``manifest.json``: which federation and how many entries; of every other part its size and SHA-256.
* ``entries/N.jsonl``: entries from number N on, one a line, exact bytes (canonical JSON has no line end inside).
* ``checkpoints/SIZE.note``: C2SP signed notes with the lines of all who co-signed.
* ``keys/``: ``server.vkey`` and ``witnesses.vkey`` (C2SP verifier keys, one a line), ``server.json`` (the server as
  members pin it), ``ca.crt``, ``roster.signed``.
* ``adapters/RUN/NUMBER.safetensors``: of rounds, where they were asked for.
* ``updates/``: what is needed to do rounds again, where it was asked for.
* ``README.txt``: how to check all that with other programs.

The manifest is signed by nobody and proves nothing: it finds what got broken on the way. What proves is the tree of the
entries, beneath the server's signature. A bundle comes from anywhere: nothing of it is written under a name that it
brings, every size and number has its bound, and what is not foreseen is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pydantic import ValidationError

from common.errors import LedgerError
from security.audit.bundle_parts import (
    MANIFEST,
    MOST_BYTES,
    MOST_MANIFEST_BYTES,
    MOST_PARTS,
    Manifest,
    Part,
    adapter_name,
    check_name,
    checkpoint_name,
    entries_name,
    most_of,
    refused,
)

__all__ = ["Bundle", "Manifest", "adapter_name", "checkpoint_name", "entries_name", "write_bundle"]

_MOST_DIRECTORY_BYTES = 2**24
_CHUNK = 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same content makes the same file
_END = struct.Struct("<4s4H2LH")


class Bundle:
    """A bundle that is open for reading. A context manager.

    Attributes:
        manifest: What it says of itself.

    Args:
        file: Where it is.

    Raises:
        LedgerError: It cannot be read, is no bundle, or breaks a bound.
    """

    def __init__(self, file: Path) -> None:
        try:
            _check_directory(file)
            self._zip = zipfile.ZipFile(file)
        except OSError as cause:
            raise LedgerError("the bundle cannot be read", got=cause.strerror, advice="Name another file.") from None
        except _BROKEN:
            raise refused("this is no bundle of a record, or it is cut short") from None
        try:
            self._infos = _checked(self._zip.infolist(), file.stat().st_size)
            self.manifest = self._read_manifest()
            self._parts = {part.name: part for part in self.manifest.parts}
            self._check_parts()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def names(self, kind: str) -> list[str]:
        """Return the names of the parts of a kind (``entries``, ``adapters``, …), in order."""
        return sorted(name for name in self._parts if name.startswith(kind + "/"))

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a part in pieces. Only when the last has come it is known that it is what the manifest says.

        Raises:
            LedgerError: There is no such part, it is damaged, or is not what the manifest says.
        """
        part = self._parts.get(name)
        if part is None:
            raise refused("the bundle lacks a part", got=name)
        seen, digest = 0, hashlib.sha256()
        try:
            with self._zip.open(self._infos[name]) as opened:
                while chunk := opened.read(min(_CHUNK, part.size - seen + 1)):
                    seen += len(chunk)
                    if seen > part.size:
                        break
                    digest.update(chunk)
                    yield chunk
        except (*_BROKEN, OSError):
            raise refused("a part of the bundle is damaged", got=name) from None
        if seen != part.size or digest.hexdigest() != part.sha256:
            raise refused("a part of the bundle is not what its manifest says", got=name)

    def read(self, name: str) -> bytes:
        """Return a part; see :meth:`chunks`."""
        return b"".join(self.chunks(name))

    def check(self) -> None:
        """Read every part once.

        Raises:
            LedgerError: One is damaged, or is not what the manifest says.
        """
        for name in self._parts:
            for _ in self.chunks(name):
                pass

    def entries(self) -> Iterator[bytes]:
        """Yield the exact bytes of all entries, in order.

        Raises:
            LedgerError: A part is missing or damaged, or they are more or fewer than the manifest says.
        """
        count = 0
        for name in self.names("entries"):
            if name != entries_name(count):
                raise refused("entries are missing from the bundle", got=name, expected=entries_name(count))
            for entry in self.read(name).split(b"\n")[:-1]:
                count += 1
                yield entry
        if count != self.manifest.entries:
            raise refused("entries are missing from the bundle", got=count, expected=self.manifest.entries)

    def checkpoints(self) -> Iterator[bytes]:
        """Yield all checkpoints by size, with the lines of who co-signed.

        Raises:
            LedgerError: One is damaged.
        """
        for name in self.names("checkpoints"):
            yield self.read(name)

    def _read_manifest(self) -> Manifest:
        if MANIFEST not in self._infos:
            raise refused("this is no bundle of a record", got="a zip file without a manifest")
        try:
            with self._zip.open(self._infos[MANIFEST]) as opened:
                text = opened.read(MOST_MANIFEST_BYTES + 1)
            if len(text) > MOST_MANIFEST_BYTES:
                raise refused("the bundle's manifest is too long")
            values = json.loads(text)
            if isinstance(values, dict) and values.get("version", 1) != 1:
                raise refused("the bundle is of another version", expected=1)
            return Manifest.model_validate(values)
        except (*_BROKEN, OSError, RecursionError, ValidationError, UnicodeDecodeError, json.JSONDecodeError):
            raise refused("the bundle's manifest cannot be read") from None

    def _check_parts(self) -> None:
        """Each part is told of, once, and is as long as is told."""
        told = {*self._parts, MANIFEST}
        if len(self._parts) != len(self.manifest.parts):
            raise refused("the bundle's manifest tells of a part twice")
        if strange := sorted(self._infos.keys() - told):
            raise refused("the bundle holds a part that its manifest does not tell of", got=strange[0])
        if missing := sorted(told - self._infos.keys()):
            raise refused("the bundle lacks a part", got=missing[0][:200])
        for name, part in self._parts.items():
            if part.size != self._infos[name].file_size:
                raise refused("a part of the bundle is not as long as its manifest says", got=name)


def write_bundle(
    file: Path, federation: str, software: str, entries: int, parts: Iterable[tuple[str, Iterable[bytes]]]
) -> Manifest:
    """Write a bundle, whole or not at all.

    Args:
        file: Where; it must not exist.
        federation: Whose record.
        software: Which wrote it.
        entries: How many entries the parts hold.
        parts: Names, and contents in pieces.

    Raises:
        LedgerError: Something is there already, it cannot be written, or it would be larger than bundles are.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    except OSError as cause:
        raise LedgerError("the bundle cannot be written", got=cause.strerror, advice="Name another file.") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as out:
            manifest = _written(out, federation, software, entries, parts)
            out.flush()
            os.fsync(out.fileno())
        os.link(temporary, file)
    except FileExistsError:
        raise LedgerError(f"{file} already exists and was left untouched", advice="Name another file.") from None
    except (OSError, zipfile.LargeZipFile) as cause:
        got = cause.strerror if isinstance(cause, OSError) else "over 4 GiB"
        raise LedgerError("the bundle cannot be written", got=got, advice="Leave adapters or updates out.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return manifest


def _written(
    out: IO[bytes], federation: str, software: str, entries: int, parts: Iterable[tuple[str, Iterable[bytes]]]
) -> Manifest:
    told: list[Part] = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, allowZip64=False) as packed:
        for name, pieces in parts:
            check_name(name)
            seen, digest = 0, hashlib.sha256()
            with packed.open(_info(name), "w") as opened:
                for piece in pieces:
                    seen += len(piece)
                    digest.update(piece)
                    opened.write(piece)
            if seen > most_of(name) or len(told) >= MOST_PARTS - 1:
                raise LedgerError(
                    "the bundle would be larger than bundles are", got=name, advice="Leave adapters or updates out."
                )
            told.append(Part(name=name, size=seen, sha256=digest.hexdigest()))
        manifest = Manifest(
            format="bottega-audit", version=1, federation=federation, software=software, entries=entries, parts=told
        )
        packed.writestr(_info(MANIFEST), manifest.model_dump_json(indent=1).encode() + b"\n")
    return manifest


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    stored = name.endswith(".safetensors") or name.startswith("updates/")  # noise does not get smaller
    info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _check_directory(file: Path) -> None:
    """Look at the end of a zip file before its table of contents, which may be of any length, is read into memory."""
    with file.open("rb") as opened:
        length = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, length - _END.size - 2**16))
        tail = opened.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise zipfile.BadZipFile
    _, disk, first, here, count, size, _, _ = _END.unpack_from(tail, place)
    if disk or first or here != count or count > MOST_PARTS or size > _MOST_DIRECTORY_BYTES:
        raise refused("the bundle has more parts than bundles have", got=count, expected=f"at most {MOST_PARTS}")


def _checked(infos: list[zipfile.ZipInfo], length: int) -> dict[str, zipfile.ZipInfo]:
    """Refuse names and sizes that no bundle has, before anything is unpacked."""
    found: dict[str, zipfile.ZipInfo] = {}
    if len(infos) > MOST_PARTS:
        raise refused("the bundle has more parts than bundles have", got=len(infos), expected=f"at most {MOST_PARTS}")
    for info in infos:
        # `orig_filename` is as it stands there; zipfile itself cuts at a zero byte.
        if info.orig_filename != info.filename or info.filename in found:
            raise refused("the bundle names a part twice, or in two ways")
        if info.filename != MANIFEST:
            check_name(info.filename)
        most = MOST_MANIFEST_BYTES if info.filename == MANIFEST else most_of(info.filename)
        if info.file_size > most:
            raise refused("a part of the bundle is longer than such parts are", got=info.filename[:200])
        if info.flag_bits & 0x1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise refused("a part of the bundle is packed in a way that bundles are not", got=info.filename[:200])
        found[info.filename] = info
    # Parts that lie over each other in the file are how a small file comes to unpack to a huge one.
    if sum(i.compress_size for i in infos) > length or sum(i.file_size for i in infos) > MOST_BYTES:
        raise refused("the bundle would unpack to more than bundles hold", expected=f"at most {MOST_BYTES} bytes")
    return found


_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, OverflowError,
           ValueError)  # fmt: skip
"""What ``zipfile`` raises for files that are none, or are damaged."""
