"""The pages of the ledger: its entries and checkpoints, and one of each with what proves it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path, Request, Response
from starlette.responses import JSONResponse

from common.errors import BottegaError, LedgerError
from security.audit.finding import remarks
from security.checkpoint import read_checkpoint
from security.note import split_note
from server.dashboard.desk import pretty
from server.dashboard.path_picture import picture
from server.dashboard.places import KINDS
from server.dashboard.reading import PAGE, UnknownError

if TYPE_CHECKING:
    from server.dashboard.desk import Desk
    from server.dashboard.reading import Shown

Index = Annotated[int, Path(ge=0, le=2**62)]
"""Of an entry, from 0."""

_CHECKPOINTS = 10
_LATEST = "SELECT size FROM ledger_checkpoints ORDER BY size DESC LIMIT ?"


def add(app: FastAPI, desk: Desk) -> None:
    """Add the pages to an application."""

    @app.get("/ledger")
    def ledger(request: Request, kind: str = "", until: str = "") -> Response:
        end = int(until) if until.isdecimal() and len(until) < 19 else None
        wanted = kind if kind in KINDS else ""
        lines = desk.reading.latest(None if end is None else end + 1, wanted or None)
        earlier = lines[-1].index - 1 if len(lines) == PAGE and lines[-1].index else None
        standing = desk.follower.standing
        return desk.page(
            request, "ledger.html", lines=lines, kind=wanted, kinds=KINDS, until=end, earlier=earlier,
            checkpoints=_checkpoints(desk), remarks=remarks(standing.told),
        )  # fmt: skip

    @app.get("/ledger/entries/{index}.json")
    def proof(index: Index) -> Response:
        """Return what a browser needs to verify an entry by itself."""
        one, told = _entry(desk, index), _proof(desk, index)
        key = desk.file.trust().server_keys[0]
        return JSONResponse(
            {
                "index": index, "entry": base64.b64encode(one.data).decode(), "size": told["size"],
                "proof": [step.hex() for step in told["steps"]], "root": told["root"].hex(),
                "checkpoint": told["note"].decode() if told["note"] else None,
                "origin": key.name, "key": key.key.raw.hex(), "vkey": str(key),
            }
        )  # fmt: skip

    @app.get("/ledger/entries/{index}")
    def entry(request: Request, index: Index) -> Response:
        one = _entry(desk, index)
        try:
            told = _proof(desk, index)
        except LedgerError:
            told = None
        return desk.page(
            request, "entry.html", one=one, pretty=pretty(one.data), raw=one.data.decode(errors="replace"),
            picture=picture(one.data, index, told["size"], told["steps"]) if told else None,
            size=told["size"] if told else 0, signed=bool(told and told["note"]),
            vkey=str(desk.file.trust().server_keys[0]),
        )  # fmt: skip

    @app.get("/ledger/checkpoints/{size}")
    def checkpoint(request: Request, size: Index) -> Response:
        return desk.page(request, "checkpoint.html", size=size, **_checkpoint(desk, size))


def _entry(desk: Desk, index: int) -> Shown:
    found = desk.reading.show([index])
    if not found:
        raise UnknownError("the ledger has no such entry")
    return found[0]


def _proof(desk: Desk, index: int) -> dict[str, Any]:
    """Return the proof of an entry under the last checkpoint; under the present root where none covers it."""
    reader = desk.reading.reader
    kept = reader.latest_checkpoint()
    note = kept.note if kept and kept.size > index else None
    size = kept.size if kept and note else reader.size()
    return {"size": size, "steps": reader.inclusion(index, size), "root": reader.root(size), "note": note}


def _checkpoints(desk: Desk) -> list[dict[str, Any]]:
    """Return the last checkpoints."""
    reader, found = desk.reading.reader, []
    for (size,) in reader.rows(_LATEST, _CHECKPOINTS):
        kept = reader.checkpoint(size)
        try:
            root = read_checkpoint(kept.note).root.hex() if kept else ""
        except LedgerError:
            root = ""
        found.append({"size": size, "root": root, "names": len(reader.cosignatures(size))})
    return found


def _checkpoint(desk: Desk, size: int) -> dict[str, Any]:
    note = desk.reading.reader.cosigned(size)
    if note is None:
        raise UnknownError("the ledger has no such checkpoint")
    trust, why, signed = desk.file.trust(), "", False
    witnesses: dict[str, int] = {}
    unknown: list[str] = []
    try:
        signed = trust.open(note).size == size
        witnesses = trust.cosigned(note)
        own = {key.name for key in trust.server_keys}
        lines = {line.name for line in split_note(note)[1]}
        unknown = sorted(_short(name) for name in lines - own - set(witnesses))
    except BottegaError as cause:
        why = f"{cause.what}: {cause.got}" if cause.got else cause.what
    return {
        "note": note.decode(errors="replace"), "signed": signed, "why": why, "vkey": str(trust.server_keys[0]),
        "witnesses": {_short(name): seen for name, seen in witnesses.items()}, "unknown": unknown,
    }  # fmt: skip


def _short(cosigner: str) -> str:
    return cosigner.rsplit("/", 1)[-1]
