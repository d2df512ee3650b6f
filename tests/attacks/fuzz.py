"""Garbage for everything that parses what strangers write: ``python -m tests.attacks.fuzz --inputs N [--seed S]``.

Half of the inputs are changes of valid ones (bytes flipped, cut out, doubled, moved, or taken from another record),
some of these with the checks before the parser passed again (a new checksum under a token, a new signature or seal over
a changed content, as a hostile member could make them); the rest is chance. A parser may take an input or raise a
BottegaError; anything else is a bug, and the input is printed so that it can be tried again.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from common.adapter_schema import AdapterSchema, LoraModule
from common.errors import BottegaError
from common.proto import bottega_pb2 as envelopes
from common.proto import enrolment_pb2 as pb
from common.proto import roster_pb2, run_order_pb2
from common.settings import RunSettings
from security import envelope, grant, invitation, join_request, roster, rotation, run_order
from security.authority import Authority, create_authority
from security.enrolment import (
    Fingerprint,
    Invitation,
    MemberKeys,
    certificate_fingerprint,
    granted_to,
    make_grant,
    make_request,
    open_grant,
    open_request,
    vouch,
)
from security.envelope import Expectation, Kind, open_letter, peek_header, seal_body, seal_letter
from security.identity import Identity
from security.keys import supernode_line
from security.names import Role, SpiffeId
from security.records import joined
from security.roster import Roster, open_roster, sign_roster
from security.rotation import open_rotation, rotate
from security.run_order import RunOrder, open_order, sign_order

FEDERATION = "fuzz.test"
NOW = int(time.time() * 1000)


@dataclass(frozen=True)
class Target:
    """A parser under fire.

    Args:
        valid: Inputs that it takes.
        parse: Tries an input.
        rewrap: Makes a whole input of a changed content, with checksum, signatures or seal that fit again.
        contents: What may be changed and wrapped again.
    """

    name: str
    valid: Sequence[bytes]
    parse: Callable[[bytes], object]
    rewrap: Callable[[bytes], bytes] | None = None
    contents: Sequence[bytes] = ()


@dataclass
class Tally:
    """What came of it."""

    inputs: int = 0
    taken: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    bugs: list[tuple[str, bytes, BaseException]] = field(default_factory=list)


def targets() -> list[Target]:
    """Make a small federation, and of each parser valid inputs out of it."""
    authority = create_authority(FEDERATION)
    server = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "server"))
    site = MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, "rossi"))
    operator = MemberKeys.generate(SpiffeId(FEDERATION, Role.OPERATOR, "anna"))
    assert site.supernode is not None
    line = supernode_line(site.supernode.public_key())
    members = Roster.first(server.peer, NOW).with_member(operator.identity.peer, b"", NOW)
    members = members.with_member(site.identity.peer, line, NOW)
    anchor = certificate_fingerprint(authority.certificate)
    return [
        _tokens(site, anchor),
        _requests(site, operator, anchor),
        _rosters(members, server),
        _rotations(site),
        _letters(site, server, members),
        _headers(site, server),
        _grants(site, server, authority, members),
        _orders(operator, members),
    ]


def _tokens(site: MemberKeys, anchor: Fingerprint) -> Target:
    made = [Invitation.create(site.id, address, anchor, NOW + 1) for address in ("a.b:1", "[::1]:65535")]
    prefix = invitation._PREFIX

    def rewrap(record: bytes) -> bytes:
        return (prefix + invitation._base64url(record + invitation._checksum(record))).encode()

    records = [invitation._decode(one.token().removeprefix(prefix)) for one in made]
    return Target("Invitation.parse", [one.token().encode() for one in made], _parse_token, rewrap, records)


def _parse_token(data: bytes) -> object:
    return Invitation.parse(data.decode("utf-8", "surrogateescape"))


def _requests(site: MemberKeys, operator: MemberKeys, anchor: Fingerprint) -> Target:
    invited = Invitation.create(site.id, "a.b:1", anchor, NOW + 1)
    supernode = site.supernode
    assert supernode is not None
    valid = [make_request(site, invitation=invited, now_ms=NOW), make_request(operator, invitation=None, now_ms=NOW)]

    def rewrap(body: bytes) -> bytes:
        signature = site.identity.signing.sign(joined(join_request._SIGNATURE_DOMAIN, body))
        second = supernode.sign(joined(join_request._SUPERNODE_DOMAIN, body), ec.ECDSA(hashes.SHA384()))
        return pb.JoinRequest(body=body, signature=signature, supernode_signature=second).SerializeToString()

    bodies = [pb.JoinRequest.FromString(valid[0]).body]
    return Target("open_request", valid, lambda data: open_request(data, now_ms=NOW), rewrap, bodies)


def _rosters(members: Roster, server: Identity) -> Target:
    revoked = members.with_revocation(SpiffeId(FEDERATION, Role.SITE, "rossi"), "left", NOW)
    valid = [sign_roster(one, server) for one in (members, revoked)]

    def rewrap(content: bytes) -> bytes:
        signature = server.signing.sign(roster._DOMAIN + content)
        return roster_pb2.SignedRoster(content=content, signature=signature).SerializeToString()

    contents = [roster_pb2.SignedRoster.FromString(data).content for data in valid]
    return Target("open_roster", valid, lambda data: open_roster(data, server.peer), rewrap, contents)


def _rotations(site: MemberKeys) -> Target:
    after = MemberKeys.generate(site.id)
    assert site.supernode is not None
    assert after.supernode is not None
    lines = (supernode_line(site.supernode.public_key()), supernode_line(after.supernode.public_key()))
    made = rotate(site.identity, after.identity, serial=1, now_ms=NOW, supernodes=lines)

    def rewrap(content: bytes) -> bytes:
        message = rotation._DOMAIN + content
        return roster_pb2.SignedRotation(
            content=content, before_signed=site.identity.signing.sign(message),
            after_signed=after.identity.signing.sign(message),
        ).SerializeToString()  # fmt: skip

    content = roster_pb2.SignedRotation.FromString(made.signed).content
    return Target("open_rotation", [made.signed], open_rotation, rewrap, [content])


def _letter(site: MemberKeys, server: Identity) -> bytes:
    return seal_letter(
        kind=Kind.TASK, run="a-run", round_number=1, in_reply_to=b"", manifest=b"what is asked", now_ms=NOW,
        body=seal_body(b"body"), sender=server, recipient=site.identity.peer,
    )  # fmt: skip


def _letters(site: MemberKeys, server: Identity, members: Roster) -> Target:
    whole = _letter(site, server)
    header = envelopes.Letter.FromString(whole).header
    expect = Expectation(frozenset(Kind), FEDERATION)
    bound = envelope._SEAL_DOMAIN + header
    content = site.identity.sealing.unseal(envelopes.Letter.FromString(whole).sealed, bound)

    def rewrap(content: bytes) -> bytes:
        sealed = site.identity.peer.sealing.seal(content, bound)
        return envelopes.Letter(header=header, sealed=sealed).SerializeToString()

    def parse(data: bytes) -> object:
        return open_letter(data, opener=site.identity, sender=members, expect=expect, now_ms=NOW)

    return Target("open_letter", [whole], parse, rewrap, [bytes(content)])


def _headers(site: MemberKeys, server: Identity) -> Target:
    whole = _letter(site, server)

    def rewrap(header: bytes) -> bytes:
        return envelopes.Letter(header=header, sealed=b"sealed").SerializeToString()

    return Target("peek_header", [whole], peek_header, rewrap, [envelopes.Letter.FromString(whole).header])


def _grants(site: MemberKeys, server: Identity, authority: Authority, members: Roster) -> Target:
    now = int(time.time() * 1000)  # the authority was made just now, perhaps long after this module was imported
    statement = vouch(authority, server.peer, now_ms=now)
    certificate = authority.issue(site.id, site.tls.public_key())
    whole = make_grant(
        site.public, certificate=certificate, authority=authority.certificate, statement=statement,
        roster=sign_roster(members, server), settings={"fleet": "a.b:1"}, sender=server, now_ms=now,
    )  # fmt: skip
    wire, anchor = pb.Grant.FromString(whole), certificate_fingerprint(authority.certificate)
    bound = joined(grant._SEAL_DOMAIN, wire.header)
    terms = pb.GrantContent.FromString(site.identity.sealing.unseal(wire.sealed, bound)).terms

    def rewrap(terms: bytes) -> bytes:
        signature = server.signing.sign(joined(grant._SIGNATURE_DOMAIN, wire.header, terms))
        content = pb.GrantContent(terms=terms, signature=signature).SerializeToString()
        sealed = site.identity.peer.sealing.seal(content, bound)
        return pb.Grant(header=wire.header, sealed=sealed).SerializeToString()

    def parse(data: bytes) -> object:
        granted_to(data)
        return open_grant(data, keys=site, authority=anchor, now_ms=now)

    return Target("open_grant", [whole], parse, rewrap, [terms])


def _orders(operator: MemberKeys, members: Roster) -> Target:
    schema = AdapterSchema((LoraModule("mid.attn", 2, 8, 8),))
    order = RunOrder("a-run", operator.id, RunSettings(quorum=1), "0" * 64, schema, ("rossi",), NOW)
    whole = sign_order(order, operator.identity)

    def rewrap(content: bytes) -> bytes:
        signature = operator.identity.signing.sign(joined(run_order._DOMAIN, content))
        return run_order_pb2.SignedRunOrder(order=content, signature=signature).SerializeToString()

    content = run_order_pb2.SignedRunOrder.FromString(whole).order
    return Target("open_order", [whole], lambda data: open_order(data, members), rewrap, [content])


def changed(data: bytes, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Change an input a little, in one to four places."""
    new = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, length = chance.randrange(len(new) + 1), chance.choice((1, 1, 2, 4, 16, 64))
        match chance.randrange(7):
            case 0:
                new[at : at + 1] = bytes([new[at] ^ 1 << chance.randrange(8)]) if at < len(new) else b"\0"
            case 1:
                new[at : at + length] = chance.randbytes(min(length, max(len(new) - at, 0)))
            case 2:
                del new[at : at + length]
            case 3:
                new[at:at] = new[at : at + length]
            case 4:
                new[at:at] = chance.randbytes(length)
            case 5:
                other, start = chance.choice(others), chance.randrange(64)
                new[at:at] = other[start : start + length]
            case _:
                # What lengths, tags and counts are made of.
                new[at : at + 1] = chance.choice(
                    (b"\0", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff\x0f", b"\x80\x00")
                )
    return bytes(new)


def one_input(target: Target, chance: random.Random, others: Sequence[bytes]) -> bytes:
    """Make one input for a parser."""
    kind = chance.random()
    if kind < 0.3:
        return changed(chance.choice(target.valid), chance, others)
    if kind < 0.5 and target.rewrap is not None:
        return target.rewrap(changed(chance.choice(target.contents), chance, others))
    if kind < 0.75:
        return chance.randbytes(chance.choice((0, 1, 2, 8, 64, 512, 4096)))
    # Chance in the shape of a record: a tag, a length, and something of that length.
    made = b""
    for _ in range(chance.randrange(1, 6)):
        content = chance.randbytes(chance.randrange(40))
        made += bytes([chance.randrange(16) << 3 | 2, len(content)]) + content
    return made


def fuzz(inputs: int, seed: int) -> Tally:
    """Try inputs on all parsers in turn.

    Args:
        inputs: How many in all.
        seed: Of what is chance here; keys and nonces are new in each run.
    """
    chance, parsers, tally = random.Random(seed), targets(), Tally()  # noqa: S311 (nothing is kept secret by it)
    others = [one for target in parsers for one in (*target.valid, *target.contents)]
    for target in parsers:
        for whole in (*target.valid, *map(target.rewrap or bytes, target.contents)):
            target.parse(whole)  # else the changes are of something that was refused anyway
    for number in range(inputs):
        target = parsers[number % len(parsers)]
        data = one_input(target, chance, others)
        tally.inputs += 1
        try:
            target.parse(data)
            tally.taken += 1
        except BottegaError as refusal:
            tally.refusals[f"{target.name}: {type(refusal).__name__}"] += 1
        except BaseException as bug:  # whatever it is, it should not have come
            if isinstance(bug, KeyboardInterrupt):
                raise
            tally.bugs.append((target.name, data, bug))
    return tally


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Garbage for every parser of what strangers write.")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    tally = fuzz(options.inputs, options.seed)
    print(f"{tally.inputs:,} inputs, {tally.inputs / (time.monotonic() - begun):,.0f} a second; {tally.taken:,} taken")  # noqa: T201
    for what, count in sorted(tally.refusals.items()):
        print(f"{count:>10,}  {what}")  # noqa: T201
    for name, data, bug in tally.bugs[:20]:
        print(f"BUG in {name}: {type(bug).__name__}: {bug}\n    {data.hex()}", file=sys.stderr)  # noqa: T201
    return 1 if tally.bugs else 0


if __name__ == "__main__":
    sys.exit(main())
