"""The federation's front desk: who is invited, who asks, who is let in, and who must go.

Operators come here through the command line on the server itself or through the registry, newcomers through the door.
The roster says who belongs; the applicants' table says what was asked and decided. A decision is written to the
roster first and to the table second, and a step that is done already is passed over, so what a crash cut in two is
mended by deciding again.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import BottegaError, MembershipError
from common.paths import ServerHome
from security.authority import Authority
from security.enrolment import (
    Invitation,
    JoinRequest,
    Newcomer,
    certificate_fingerprint,
    make_grant,
    open_request,
    vouch,
)
from security.member_keys import Keys
from security.names import Role, SpiffeId
from security.renewal import open_renewal
from security.roster import Member, Roster, check_reason
from security.rotation import open_rotation
from server.applicants import Applicant, Applicants, Status
from server.house import House
from server.ledger_desk import LedgerDesk

log = logging.getLogger("bottega.desk")

LONGEST_INVITATION = dt.timedelta(days=7)
"""A token that is lost is good for no longer."""

MOST_ROTATIONS = 64
"""Of one member: each stays in the roster, which every member fetches, for good."""


@dataclass(frozen=True)
class Addresses:
    """Where members and newcomers find the server, each ``host:port`` as seen from outside."""

    fleet: str
    registry: str
    door: str


class Desk:
    """The desk of one server.

    Args:
        house: The server's home, opened.
        applicants: What was asked and decided.
        addresses: Where the server is reached.
        connect: Lets a site's SuperNode connect to the running SuperLink.
        disconnect: Lets a SuperNode go, by its public key.
    """

    def __init__(
        self,
        house: House,
        applicants: Applicants,
        addresses: Addresses,
        connect: Callable[[Member], None],
        disconnect: Callable[[bytes], None],
    ) -> None:
        self._house, self._applicants, self._addresses = house, applicants, addresses
        self._connect, self._disconnect = connect, disconnect
        self._authority = Authority.load(house.keys)
        self._lifetime = dt.timedelta(hours=house.settings.certificate_hours)

    @cached_property
    def ledger(self) -> LedgerDesk:
        """The desk of the ledger."""
        return LedgerDesk(self._house)

    @property
    def home(self) -> ServerHome:
        """The server's home."""
        return self._house.home

    @property
    def federation(self) -> str:
        """The trust domain."""
        return self._house.settings.federation

    def expects_somebody(self) -> bool:
        """Return whether anybody may be at the door."""
        return self._applicants.expects_somebody(_now_ms())

    def is_active(self, who: SpiffeId) -> bool:
        """Return whether somebody belongs to the federation at this moment."""
        return who in self._house.roster

    def generation(self, who: SpiffeId) -> int:
        """Return how often a member has gone over to new keys."""
        return len(self._house.roster.rotations_of(who))

    def may_have_forgotten(self) -> bool:
        """Return whether members may know a later roster: from a restore until the operator says otherwise."""
        return self.home.restored.exists()

    def roster(self, known_version: int) -> bytes:
        """Return the signed roster; nothing when the caller has the newest."""
        roster, signed = self._house.published
        return b"" if roster.version == known_version else signed

    def take_back(self, signed: bytes) -> int:
        """Take a roster that this server signed and then lost, as one that was restored from a backup has.

        Args:
            signed: As a member accepted it last.

        Returns:
            The version of the roster that now holds.

        Raises:
            IdentityError: This server did not sign it, or it may not follow on the roster that holds.
        """
        before = self._house.roster
        after = self._house.adopt(signed)
        if after.version == before.version:
            return after.version
        log.warning("a member had a later roster: version %d, this server's was %d", after.version, before.version)
        for member in after.members:
            if member.id.role is not Role.SITE:
                continue
            try:
                if member.active:
                    self._connect(member)
                else:
                    self._disconnect(member.keys.supernode)
            except BottegaError as why:  # the others all the same; the next start goes by the roster in any case
                log.error("the SuperNode of %s is not as the roster has it: %s", member.id, why)  # noqa: TRY400
        return after.version

    def invite(
        self, role: Role, name: str, ttl: dt.timedelta, *, auto_approve: bool, by: SpiffeId | None = None
    ) -> Invitation:
        """Invite somebody under a name.

        Args:
            role: As what.
            name: Under which name.
            ttl: How long the invitation is good.
            auto_approve: Whether nobody need look at who comes with it.
            by: Which operator; the one who lives here when left out.

        Raises:
            IdentityError: The name will not do or is taken, or the time is not positive.
        """
        who, now = SpiffeId(self.federation, role, name), _now_ms()
        if not dt.timedelta(0) < ttl <= LONGEST_INVITATION:
            raise MembershipError(
                "an invitation cannot have this lifetime", got=ttl, expected=f"up to {LONGEST_INVITATION}"
            )
        self._house.check_settled()  # who was revoked since the backup may be active here again
        if any(member.id == who for member in self._house.roster.members):
            raise MembershipError("the name is taken", got=f"{role} {name}", expected="another name")
        anchor = certificate_fingerprint(self._authority.certificate)
        invitation = Invitation.create(who, self._addresses.door, anchor, now + ttl // dt.timedelta(milliseconds=1))
        self._applicants.invite(invitation, auto_approve=auto_approve, now_ms=now, by=by or self._house.founder)
        log.info("invited: %s, for %s", who, ttl)
        return invitation

    def ask(self, data: bytes) -> Applicant:
        """Take a newcomer's request, who came with an invitation.

        Raises:
            IdentityError: The request or the invitation will not do.
        """
        now = _now_ms()
        request = self._opened(data, now)
        admission = self._applicants.ask(request, data, now)
        log.info("asked to join: %s, %s", request.member.id, admission.applicant.status)
        if admission.auto_approve and admission.applicant.status is Status.WAITING:
            return self.approve(request.member.id.role, request.member.id.name)
        return admission.applicant

    def bring(self, data: bytes) -> bytes:
        """Let somebody in whose request the operator was handed as a file, and return their grant.

        A member who asks again with the keys that the roster has gets a new certificate: so one whose certificate ran
        out comes back.

        Raises:
            IdentityError: The request will not do, or the name is taken by other keys.
        """
        now = _now_ms()
        member = self._opened(data, now).member
        if member.id in self._house.roster:
            known = self._house.roster.member(member.id).keys
            if known != Keys.of(member.peer, member.supernode):
                raise MembershipError("the name is taken by other keys", got=member.id, advice="Choose another name.")
        else:
            self._applicants.bring(self._opened(data, now), data, now)
            self.approve(member.id.role, member.id.name)
        return self._granted(member)

    def status(self, who: SpiffeId, fingerprint: bytes) -> Applicant:
        """Tell a newcomer how their request stands.

        Raises:
            IdentityError: Nobody of that name and those keys asked.
        """
        with contextlib.suppress(MembershipError):
            found = self._applicants.one(who.role, who.name)
            if hmac.compare_digest(found.fingerprint, fingerprint):
                return found
        # The same words for a wrong name and for wrong keys: a stranger learns no names here.
        raise MembershipError(
            f"nobody called {who.name} asked to join with these keys", advice="Ask the operator for an invitation."
        )

    def approve(self, role: Role, name: str) -> Applicant:
        """Let somebody in who waits. Doing it twice does nothing.

        Raises:
            IdentityError: Nobody of that name waits.
        """
        found = self._applicants.one(role, name)
        if found.status not in (Status.WAITING, Status.APPROVED):
            raise MembershipError(f"{name} does not wait for a decision", got=found.status, expected=Status.WAITING)
        newcomer = self._reopened(found).member
        if newcomer.id not in self._house.roster:
            supernode = newcomer.supernode if role is Role.SITE else b""
            self._house.publish(lambda roster: roster.with_member(newcomer.peer, supernode, _now_ms()))
        if role is Role.SITE:
            self._connect(self._house.roster.member(newcomer.id))
        log.info("approved: %s", newcomer.id)
        return self._applicants.approve(role, name, _now_ms())

    def deny(self, role: Role, name: str, reason: str, by: SpiffeId | None = None) -> Applicant:
        """Refuse somebody who waits.

        Args:
            role: As what they wanted to join.
            name: Under which name.
            reason: In words.
            by: Which operator; the one who lives here when left out.

        Raises:
            IdentityError: Nobody of that name waits.
        """
        check_reason(reason)
        if SpiffeId(self.federation, role, name) in self._house.roster:
            raise MembershipError(
                f"{name} belongs to the federation already", got="a member", expected="somebody who waits",
                advice="Nothing was changed. `bottega server revoke` ends a membership.",
            )  # fmt: skip
        denied = self._applicants.deny(role, name, reason, _now_ms(), by or self._house.founder)
        log.info("denied: %s %s", role, name)
        return denied

    def revoke(self, role: Role, name: str, reason: str) -> Member:
        """End somebody's membership, at once and for good. Done twice, the first reason stands.

        Raises:
            IdentityError: Nobody of that name belongs to the federation, or the reason will not do.
        """
        who = SpiffeId(self.federation, role, name)
        roster = self._house.roster
        if all(member.id != who for member in roster.members):
            raise MembershipError(f"no {role} called {name} ever belonged to the federation")
        if roster.member(who).active:
            roster = self._house.publish(lambda latest: latest.with_revocation(who, reason, _now_ms()))
        if role is Role.SITE:
            self._disconnect(roster.member(who).keys.supernode)
        self._applicants.revoked(role, name, reason, _now_ms())
        if role is Role.OPERATOR:
            self._applicants.withdraw_all(_now_ms())  # some may be theirs, and who holds the tokens only they know
        log.info("revoked: %s", who)
        return roster.member(who)

    def grant(self, approved: Applicant) -> bytes:
        """Make what an approved newcomer is given: a certificate, the roster and where to find the server.

        It is made anew at each call, so that it is fresh whenever it is fetched; only the newcomer can open it.

        Raises:
            IdentityError: They do not belong to the federation.
        """
        return self._granted(self._reopened(approved).member)

    def _granted(self, newcomer: Newcomer) -> bytes:
        (roster, signed), now = self._house.published, _now_ms()
        if newcomer.id not in roster:
            raise MembershipError("they do not belong to the federation", got=newcomer.id)
        if roster.member(newcomer.id).keys != Keys.of(newcomer.peer, newcomer.supernode):
            # Else who stole the old keys, and only they, would get a certificate of the new generation for them.
            raise MembershipError("the member has gone over to new keys; these are the old ones", got=newcomer.id)
        return make_grant(
            newcomer,
            certificate=self._issued(newcomer.id, newcomer.tls, roster),
            authority=self._authority.certificate,
            statement=vouch(self._authority, self._house.identity.peer, now_ms=now),
            roster=signed,
            settings={"fleet": self._addresses.fleet, "registry": self._addresses.registry},
            sender=self._house.identity,
            now_ms=now,
        )

    def renew(self, who: SpiffeId, csr: bytes, signature: bytes) -> x509.Certificate:
        """Certify a member's TLS key again, or a new one.

        Raises:
            IdentityError: The CSR is not by the key in it, names somebody else, or was not signed by the member.
        """
        roster = self._house.roster
        certificate = self._issued(who, open_renewal(csr, signature, roster[who]), roster)
        log.info("renewed: %s, until %s", who, certificate.not_valid_after_utc)
        return certificate

    def rotate(self, who: SpiffeId, signed: bytes, csr: bytes, signature: bytes) -> x509.Certificate:
        """Put a member's new keys in the place of the old ones, and certify the new TLS key.

        Done again with the same rotation, it answers as before: the member may not have heard the first answer. Every
        member has that rotation, in the roster, and who stole the old TLS key may still make this call: so it is the
        new Ed25519 key that has to ask for the certificate.

        Args:
            who: The member who calls.
            signed: Their ``SignedRotation``.
            csr: For the new TLS key.
            signature: Of the new Ed25519 key over it (:mod:`security.renewal`).

        Raises:
            IdentityError: The rotation is another's, does not begin with their present keys, is not their last, or the
                CSR will not do.
        """
        rotation = open_rotation(signed)
        if rotation.id != who:
            raise MembershipError("a member rotates their own keys", got=rotation.id, expected=who)
        tls = open_renewal(csr, signature, rotation.after.peer(who))
        known = self._house.roster.rotations_of(who)
        if rotation in known[:-1]:
            raise MembershipError("the member has rotated again since", got=rotation.serial, expected=len(known))
        if rotation not in known:
            if len(known) >= MOST_ROTATIONS:
                raise MembershipError(
                    "this member has rotated too often", got=len(known), expected=f"at most {MOST_ROTATIONS} times",
                    advice="Revoke the member, and invite them under another name.",
                )  # fmt: skip
            self._house.publish(lambda roster: roster.with_rotation(rotation, _now_ms()))
            log.info("rotated: %s, for the %d. time", who, rotation.serial)
        if who.role is Role.SITE:
            # Once a site's old SuperNode is let go Flower never takes its key again, so the new one comes first.
            self._connect(self._house.roster.member(who))
            self._disconnect(rotation.before.supernode)
        roster = self._house.roster
        if roster.rotations_of(who)[-1] != rotation:
            raise MembershipError("the member has rotated again since", got=rotation.serial)
        return self._issued(who, tls, roster)

    def applicants(self) -> list[Applicant]:
        """Return all who ever asked."""
        return self._applicants.all()

    def invited(self) -> list[Applicant]:
        """Return for whom an invitation is out."""
        return self._applicants.invited(_now_ms())

    def _issued(self, who: SpiffeId, key: ec.EllipticCurvePublicKey, roster: Roster) -> x509.Certificate:
        """Certify a key by the roster that it was checked against: in a later one the key may be of the past."""
        generation = len(roster.rotations_of(who))
        return self._authority.issue(who, key, lifetime=self._lifetime, generation=generation)

    def _opened(self, data: bytes, now_ms: int) -> JoinRequest:
        request = open_request(data, now_ms=now_ms)
        if request.member.id.federation != self.federation:
            raise MembershipError(
                "the request is for another federation", got=request.member.id.federation, expected=self.federation
            )
        return request

    def _reopened(self, kept: Applicant) -> JoinRequest:
        """Open a request that was checked when it came; how old it is now does not matter."""
        return open_request(kept.request, now_ms=kept.asked_at_ms)


def _now_ms() -> int:
    return int(time.time() * 1000)
