"""Ledgers for tests: a small federation's record, told by the real entries and kept by the real ledger."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from common.adapter_schema import Adapter, AdapterSchema, LoraModule
from common.export import adapter_weights
from common.paths import ServerHome
from common.settings import RunSettings
from security.audit.mirror import Mirror
from security.audit.trust import Trust
from security.authority import create_authority, load_certificate
from security.checkpoint import Checkpoint, cosign, sign_checkpoint
from security.entries import (
    Checked,
    Entry,
    Founded,
    Invited,
    Joined,
    PrivacyApplied,
    Reinstated,
    Released,
    Revoked,
    RosterSigned,
    RoundClosed,
    RoundOpened,
    RunEnded,
    RunStarted,
    Update,
    moment,
    write_entry,
)
from security.identity import Identity, Role, SpiffeId
from security.keys import supernode_line
from security.ledger import LEDGER_SCHEMA, Reader, append, keep_checkpoint, keep_cosignature
from security.ledger_names import cosigner_of, origin_of
from security.roster import Roster, sign_roster

FEDERATION = "studios.test"
RUN = "20261102-091500-ab12"
BEGIN_S = 1_793_610_000.0  # 2026-11-02 09:00 UTC
SITES = ("bianchi", "rossi", "verdi")
SCHEMA = AdapterSchema((LoraModule("mid_block.attentions.0.proj_in", 6, 4, 2),))


@dataclass
class Members:
    """A federation's server, its operator and its sites, with their private keys."""

    server: Identity
    operator: Identity
    sites: dict[str, Identity]
    roster: Roster
    authority: x509.Certificate

    @property
    def signed_roster(self) -> bytes:
        return sign_roster(self.roster, self.server)


def some_members(sites: Sequence[str] = (*SITES, "vandal"), federation: str = FEDERATION) -> Members:
    """Make a federation of the server, the operator anna and some sites, in memory; a vandal was revoked by now."""

    def named(role: Role, name: str) -> Identity:
        return Identity.generate(SpiffeId(federation, role, name))

    server, operator = named(Role.SERVER, "server"), named(Role.OPERATOR, "anna")
    houses = {name: named(Role.SITE, name) for name in sites}
    roster = Roster.first(server.peer, int(BEGIN_S * 1000)).with_member(operator.peer, b"", int(BEGIN_S * 1000))
    for house in houses.values():
        roster = roster.with_member(house.peer, _supernode(), int(BEGIN_S * 1000))
    if "vandal" in houses:
        roster = roster.with_revocation(houses["vandal"].id, "sent noise for a month", int(BEGIN_S * 1000))
    return Members(server, operator, houses, roster, create_authority(federation).certificate)


@dataclass
class Story:
    """Tells entries as a server would, by a clock of its own: each a second after the one before."""

    federation: str = FEDERATION
    now: float = BEGIN_S
    entries: list[Entry] = field(default_factory=list)
    adapters: dict[tuple[str, int], bytes] = field(default_factory=dict)

    @property
    def operator(self) -> str:
        return f"spiffe://{self.federation}/operator/anna"

    def at(self) -> str:
        """Return the time; a second later it is another."""
        self.now += 1.0
        return moment(self.now)

    def site(self, name: str) -> str:
        return f"spiffe://{self.federation}/site/{name}"

    def found(self, server_key: bytes, authority: str) -> None:
        self.entries.append(
            Founded(
                at=self.at(), server=f"spiffe://{self.federation}/server/server", authority=authority,
                key=server_key.hex(), software="bottega 0.1.0",
            )
        )  # fmt: skip
        self.entries.append(Joined(at=self.at(), member=self.operator, keys=digest("anna")))

    def join(self, *names: str) -> None:
        for number, name in enumerate(names, 3):
            until = moment(self.now + 3600)
            invited = Invited(at=self.at(), member=self.site(name), until=until, by=self.operator, approved_ahead=False)
            joined = Joined(at=self.at(), member=self.site(name), keys=digest(name))
            signed = RosterSigned(at=self.at(), version=number, digest=digest(f"roster {number}"))
            self.entries += [invited, joined, signed]

    def revoke(self, name: str, reason: str) -> None:
        self.entries.append(Revoked(at=self.at(), member=self.site(name), reason=reason))

    def reinstate(self, name: str, reason: str) -> None:
        self.entries.append(Reinstated(at=self.at(), member=self.site(name), reason=reason, by=self.operator))

    def start(self, run: str, sites: Sequence[str], settings: RunSettings, *, resumed: bool = False) -> None:
        self.entries.append(
            RunStarted(
                at=self.at(), run=run, operator=self.operator, order=digest(f"order {run}"),
                settings=settings.model_dump(mode="json"), base=digest("base"), sites=sorted(sites),
                software="bottega 0.1.0", resumed=resumed,
            )
        )  # fmt: skip

    def open_round(self, run: str, number: int, sites: Sequence[str], work: str = "train") -> None:
        held = self.adapters.get((run, number - 1), adapter(run, 0))
        sent = hashlib.sha256(held).hexdigest()
        opened = {"run": run, "round": number, "work": work, "asked": sorted(sites), "adapter": sent}
        self.entries.append(RoundOpened.model_validate({"at": self.at(), **opened}))

    def update(self, run: str, number: int, site: str, **other: Any) -> None:  # noqa: ANN401 (fields of an entry)
        told: dict[str, Any] = {
            "run": run, "round": number, "site": site, "verdict": "admitted", "check": 0, "check_name": "admitted",
            "sealed": digest(f"{run} {number} {site}"), "signed": digest(f"signed {run} {number} {site}"),
            "examples": 24, "weight": 1 / 3, "norm": 0.5, "p_value": 0.42,
            "privacy": PrivacyApplied(
                epsilon=1.5 * number, delta=1e-4, unit="drawing", multiplier=1.1, clip=1e-3, rate=0.25, steps=2,
                multiplicity=4,
            ),
        }  # fmt: skip
        told |= other
        if told["verdict"] in {"rejected", "refused"}:
            told["weight"] = None
        self.entries.append(Update.model_validate({"at": self.at(), **told}))

    def close_round(self, run: str, number: int, averaged: Sequence[str], outcome: str = "aggregated") -> None:
        weights = adapter(run, number) if outcome == "aggregated" else self.adapters.get((run, number - 1))
        if outcome == "measured":
            weights = None
        elif weights is not None:
            self.adapters[run, number] = weights
        told = {
            "run": run, "round": number, "outcome": outcome, "rule": "weighted mean", "averaged": sorted(averaged),
            "adapter": hashlib.sha256(weights).hexdigest() if weights is not None else None, "detector": "judged",
        }  # fmt: skip
        self.entries.append(RoundClosed.model_validate({"at": self.at(), **told}))

    def end(self, run: str, status: str = "finished", reason: str | None = None) -> None:
        told = {"run": run, "status": status, "reason": reason}
        self.entries.append(RunEnded.model_validate({"at": self.at(), **told}))

    def check(self, run: str, number: int, after: float = 0.14, *, worse: bool = False) -> None:
        weights = hashlib.sha256(self.adapters[run, number]).hexdigest()
        self.entries.append(
            Checked(
                at=self.at(), run=run, round=number, adapter=weights, by=self.operator, drawings=64,
                of=digest("public drawings"), alike=True, before=0.18, after=after,
                margin=0.02, worse=worse,
            )
        )  # fmt: skip

    def release(self, run: str, number: int, despite: str | None = None) -> None:
        weights = hashlib.sha256(self.adapters[run, number]).hexdigest()
        released = Released(at=self.at(), run=run, round=number, adapter=weights, by=self.operator, despite=despite)
        self.entries.append(released)

    def play(
        self,
        run: str = RUN,
        sites: Sequence[str] = SITES,
        rounds: int = 3,
        settings: RunSettings | None = None,
        left_out: Mapping[tuple[int, str], Mapping[str, Any]] | None = None,
    ) -> None:
        """Tell a whole run: rounds that train, a last look, the end and the release.

        Args:
            run: Its id.
            sites: Who is asked.
            rounds: That train.
            settings: Of the run.
            left_out: By round and site, fields of an update that was not averaged, such as ``{"verdict": "rejected"}``.
        """
        out = left_out or {}
        self.start(run, sites, settings or RunSettings(rounds=rounds))
        for number in range(1, rounds + 1):
            self.open_round(run, number, sites)
            for site in sites:
                self.update(run, number, site, **out.get((number, site), {}))
            averaged = [site for site in sites if out.get((number, site), {}).get("verdict", "admitted") in _AVERAGED]
            self.close_round(run, number, averaged)
        self.open_round(run, rounds + 1, sites, "evaluate")
        for site in sites:
            self.update(run, rounds + 1, site, weight=None, norm=None, p_value=None, privacy=None, examples=0)
        self.close_round(run, rounds + 1, [], "measured")
        self.end(run)
        self.release(run, rounds)


_AVERAGED = {"admitted", "clipped"}

REJECTED = {
    "verdict": "rejected", "check": 17, "check_name": "anomaly", "p_value": 0.004,
    "reason": "stranger than 99.6 % of honest updates; what stands out: cosine to the round before",
}  # fmt: skip
LATE = {
    "verdict": "refused", "check": 2, "check_name": "in-time", "reason": "no answer by the round's deadline",
    "sealed": None, "signed": None, "examples": None, "norm": None, "p_value": None, "privacy": None,
}  # fmt: skip
CLIPPED = {"verdict": "clipped", "check": 15, "check_name": "size", "reason": "norm 2.9 of the median's; cut to 2.5"}
LEFT_OUT: dict[tuple[int, str], Mapping[str, Any]] = {
    **{(number, "vandal"): REJECTED for number in (1, 2, 3)}, (2, "rossi"): LATE, (3, "verdi"): CLIPPED,
}  # fmt: skip
"""By round and site, what is not as usual in :func:`a_story`."""


def a_story(members: Members) -> Story:
    """Tell what the tests of the audit read: a private run with a vandal, a late site and one that is cut down."""
    story = Story(members.server.id.federation)
    authority = hashlib.sha256(members.authority.public_bytes(Encoding.DER)).hexdigest()
    story.found(members.server.signing.public.raw, authority)
    story.join(*members.sites)
    sites = sorted(members.sites)
    story.play(RUN, sites, 3, RunSettings(rounds=3), LEFT_OUT if "vandal" in sites else {})
    if "vandal" in members.sites:
        story.revoke("vandal", "sent noise for a month")
    signed = hashlib.sha256(members.signed_roster).hexdigest()
    story.entries.append(RosterSigned(at=story.at(), version=members.roster.version, digest=signed))
    return story


def trust_in(members: Members) -> Trust:
    """Believe the federation's server, as who pinned it does."""
    return Trust.of(members.server.peer, members.signed_roster, members.authority.public_bytes(Encoding.PEM))


def write_ledger(
    file: Path, members: Members, entries: Sequence[Entry], every: int = 8, cosigned_by: Sequence[str] = SITES
) -> None:
    """Write entries into a ledger's file, or go on with one; with checkpoints, co-signed by sites.

    Args:
        file: An SQLite file; it may have other tables.
        members: Who signs.
        entries: In order.
        every: How many entries there are from one checkpoint to the next; the last one covers all.
        cosigned_by: Which sites co-sign each checkpoint; those that the federation has.
    """
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=OFF")  # no test cuts the power here
        db.executescript(LEDGER_SCHEMA)
        for start in range(0, len(entries), every):
            with db:
                db.execute("BEGIN IMMEDIATE")
                append(
                    db,
                    [write_entry(one) for one in entries[start : start + every]],
                    [None] * len(entries[start : start + every]),
                )
                sign(db, members, [name for name in cosigned_by if name in members.sites])


def sign(db: sqlite3.Connection, members: Members, cosigned_by: Sequence[str] = ()) -> bytes:
    """Keep a checkpoint of all that is there, in the caller's transaction; return it with its co-signatures."""
    reader = Reader(lambda sql, *values: db.execute(sql, values).fetchall())
    size = reader.size()
    note = sign_checkpoint(
        Checkpoint(origin_of(members.server.id.federation), size, reader.root(size)), members.server.signing
    )
    keep_checkpoint(db, note)
    for name in cosigned_by:
        who = cosigner_of(members.sites[name].id)
        line = cosign(note, who, members.sites[name].signing, int(BEGIN_S) + size)
        keep_cosignature(db, size, who, line)
        note += line
    return note


def a_ledger(file: Path, members: Members | None = None, story: Story | None = None) -> Mirror:
    """Write :func:`a_story` (or another) into a new file and open it."""
    whose = members or some_members()
    write_ledger(file, whose, (story or a_story(whose)).entries)
    return Mirror(file)


def a_server_home(root: Path, sites: Sequence[str] = (*SITES, "vandal")) -> tuple[ServerHome, Members, Story]:
    """Found a real federation with some sites, whose ledger tells of one run; a vandal is revoked after it."""
    from server.founding import found
    from server.house import open_house
    from server.operating import load_operator
    from server.settings import ServerSettings

    home = ServerHome(root)
    found(home, ServerSettings(federation=FEDERATION, operator="anna"), ["127.0.0.1"])
    house = open_house(home)
    houses = {name: Identity.generate(SpiffeId(FEDERATION, Role.SITE, name)) for name in sites}
    for one in houses.values():
        house.publish(lambda roster, one=one: roster.with_member(one.peer, _supernode(), int(time.time() * 1000)))  # type: ignore[misc]
    authority = load_certificate(home.authority_certificate)
    members = Members(house.identity, load_operator(home.operator).identity, houses, house.roster, authority)
    story = Story(now=time.time())
    story.play(RUN, sorted(sites), 3, RunSettings(rounds=3), LEFT_OUT if "vandal" in sites else {})
    write_ledger(home.database, members, story.entries)
    if "vandal" in sites:
        why = "sent noise for a month"
        house.publish(lambda roster: roster.with_revocation(houses["vandal"].id, why, int(time.time() * 1000)))
        members.roster = house.roster
    return home, members, story


def adapter(run: str, number: int) -> bytes:
    """Return a small adapter's weights file, another for each round."""
    chance = np.random.default_rng(int(digest(f"{run} {number}")[:8], 16))
    factors = [chance.normal(size=SCHEMA.numel(part)).astype(np.float32) for part in ("A", "B")]
    return adapter_weights(Adapter(SCHEMA, *factors))


def digest(text: str) -> str:
    """Return the SHA-256 of a text, hex: a digest of nothing in particular."""
    return hashlib.sha256(text.encode()).hexdigest()


def _supernode() -> bytes:
    return supernode_line(ec.generate_private_key(ec.SECP384R1()).public_key())
