"""Whom an auditor believes: one federation's server, by its keys, and the members who co-sign what they have seen."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from cryptography import x509

from common.errors import IdentityError, LedgerError
from security.checkpoint import Checkpoint, cosigner_key, cosigners, open_checkpoint
from security.fingerprint import Fingerprint, certificate_fingerprint
from security.ledger_names import cosigner_of, origin_of
from security.names import Role
from security.note import NoteKey, read_line, split_note
from security.roster import open_roster

if TYPE_CHECKING:
    from security.identity import Peer
    from security.keys import VerifyKey
    from security.roster import Roster


@dataclass(frozen=True)
class Trust:
    """What checkpoints are held against.

    Attributes:
        federation: Whose ledger it is.
        server: The keys that its server signs with: the present one first, then those that it rotated from.
        witnesses: The keys that members co-sign with, all that each ever had.
        roster: Who belongs, as the server signed it.
        signed_roster: Those bytes.
        certificate: Of the federation's authority, PEM; empty where it is not known.
        pinned: Whether the server's key is known from elsewhere than what is being audited.
    """

    federation: str
    server: tuple[VerifyKey, ...]
    witnesses: tuple[NoteKey, ...]
    roster: Roster
    signed_roster: bytes = field(repr=False)
    certificate: bytes = field(default=b"", repr=False)
    pinned: bool = True

    @classmethod
    def of(cls, server: Peer, signed_roster: bytes, certificate: bytes = b"", *, pinned: bool = True) -> Trust:
        """Believe a server, and the roster that it signed.

        Args:
            server: As it was pinned.
            signed_roster: From anywhere.
            certificate: Of the authority, PEM.
            pinned: Whether the server is known from elsewhere than what is being audited.

        Raises:
            IdentityError: The roster is not by this server.
        """
        roster = open_roster(signed_roster, server)
        keys = tuple(reversed([keys.verify for keys in roster.generations(roster.server.id)]))
        witnesses = tuple(
            cosigner_key(cosigner_of(member.id), generation.verify)
            for member in roster.members
            if member.id.role is not Role.SERVER
            for generation in roster.generations(member.id)
        )
        return cls(roster.federation, keys, witnesses, roster, signed_roster, certificate, pinned)

    @property
    def origin(self) -> str:
        """The name of the ledger, which its checkpoints begin with."""
        return origin_of(self.federation)

    @property
    def server_keys(self) -> tuple[NoteKey, ...]:
        """The server's keys as other programs take them (C2SP verifier keys), the present one first."""
        return tuple(NoteKey(self.origin, key) for key in self.server)

    @property
    def authority(self) -> Fingerprint | None:
        """The fingerprint of the authority's certificate, which people compare; None where it is not known.

        Raises:
            IdentityError: What should be the certificate is none.
        """
        try:
            return (
                certificate_fingerprint(x509.load_pem_x509_certificate(self.certificate)) if self.certificate else None
            )
        except ValueError:
            raise IdentityError("this is no certificate of an authority", expected="PEM") from None

    @cached_property
    def roster_digest(self) -> str:
        """SHA-256 (hex) of the signed roster, as entries have it."""
        return hashlib.sha256(self.signed_roster).hexdigest()

    @property
    def sites(self) -> dict[str, str]:
        """The names that active sites co-sign under, with the sites' own names."""
        members = self.roster.members
        return {cosigner_of(one.id): one.id.name for one in members if one.id.role is Role.SITE and one.active}

    def open(self, note: bytes) -> Checkpoint:
        """Return the checkpoint in a note.

        Raises:
            LedgerError: The server did not sign it, or it is no checkpoint of this ledger.
        """
        *older, newest = reversed(self.server)
        for key in older:
            try:
                return open_checkpoint(note, self.origin, key)
            except LedgerError:
                continue
        return open_checkpoint(note, self.origin, newest)

    def cosigned(self, note: bytes) -> dict[str, int]:
        """Return who co-signed a checkpoint and when (Unix seconds), by the names that they sign under.

        Raises:
            LedgerError: A line claims a member's key and is not by it.
        """
        return cosigners(note, self.witnesses)

    def taken_apart(self, note: bytes) -> tuple[bytes, dict[str, bytes]]:
        """Return a note with the server's signature alone, and the verified lines of witnesses by name.

        Raises:
            LedgerError: The server did not sign it, or a line claims a known key and is not by it.
        """
        self.open(note)
        verified = self.cosigned(note)
        ids = {(key.name, key.id) for key in self.witnesses}
        own = {key.id for key in self.server_keys}
        text, lines = split_note(note)
        server = next(bytes(line) for line in lines if line.name == self.origin and line.blob[:4] in own)
        witnesses = {
            line.name: bytes(read_line(bytes(line)))
            for line in lines
            if line.name in verified and (line.name, line.blob[:4]) in ids
        }
        return text + b"\n" + server, witnesses
