"""Enrolment: how a stranger becomes a member of a federation.

The front door to invitations, join requests and grants: import them from here. By wire or as files, the records are
the same:

1. The operator makes an :class:`Invitation` and gives the newcomer its token by a way that both trust.
2. The newcomer makes all keys (:class:`MemberKeys`), which never leave the house, and asks (:func:`make_request`).
   Without a network the request is a file, and there is no invitation.
3. The server opens the request (:func:`open_request`). Operator and newcomer compare the words of the
   :class:`~security.fingerprint.Fingerprint` that both see, and the operator says yes.
4. The authority issues a certificate and vouches for the server's keys (:func:`vouch`); the server makes the grant
   (:func:`make_grant`).
5. The newcomer opens it (:func:`open_grant`), believing only the authority whose fingerprint the invitation carried.

**What proves which key.** TLS: the CSR's signature. Ed25519 and SuperNode: their signatures over the request.
Sealing: only its holder can open the grant. The server's keys: the authority's statement.

**What the words are for.** The token lets somebody ask; if it fell into wrong hands, the wrong one asked first. Then
the words that the operator sees are not those that the invited newcomer sees.
"""

from __future__ import annotations

from security.fingerprint import Fingerprint, certificate_fingerprint, fingerprint
from security.grant import MAX_GRANT_BYTES, Grant, granted_to, make_grant, open_grant, told_authority
from security.invitation import Invitation, matches, secret_hash
from security.join_request import MAX_REQUEST_BYTES, JoinRequest, make_request, open_request
from security.member import MemberKeys, Newcomer
from security.statement import vouch, vouched_server

__all__ = [
    "MAX_GRANT_BYTES",
    "MAX_REQUEST_BYTES",
    "Fingerprint",
    "Grant",
    "Invitation",
    "JoinRequest",
    "MemberKeys",
    "Newcomer",
    "certificate_fingerprint",
    "fingerprint",
    "granted_to",
    "make_grant",
    "make_request",
    "matches",
    "open_grant",
    "open_request",
    "secret_hash",
    "told_authority",
    "vouch",
    "vouched_server",
]
