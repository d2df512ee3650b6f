"""Staying a member: the newest roster is fetched, and the certificate renewed before it runs out."""

from __future__ import annotations

import grpc
from cryptography import x509

from common.errors import IdentityError
from common.paths import MemberHome
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security.authority import certified_id, save_certificate
from security.calling import CALL_S
from security.files import read_public
from security.identity import Peer
from security.member import MemberKeys
from security.renewal import make_renewal
from security.roster import Roster, open_roster
from security.succession import keep_roster, load_roster


def refresh_roster(home: MemberHome, stub: rpc.RegistryStub) -> Roster:
    """Fetch the newest roster and keep it, if it may follow on the known one.

    A server that was restored from a backup has forgotten the rosters since, and the members that they name. It signed
    them, so it can be shown them: when its roster is behind, or it does not know the caller, the known one is returned
    to it first.

    Raises:
        IdentityError: It may not: the known one holds on.
        grpc.RpcError: The server refuses the caller, or does not answer.
    """
    server = Peer.pinned(home.pinned_server)
    known = load_roster(home.roster, server)
    asked = pb.GetRosterCall(known_version=known.version)
    try:
        answer = stub.GetRoster(asked, timeout=CALL_S)
        behind = bool(answer.roster) and open_roster(answer.roster, server).version < known.version
    except grpc.RpcError as refusal:
        if refusal.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        behind = True
    if behind:
        call = pb.ReturnRosterCall(roster=read_public(home.roster, error=IdentityError))
        stub.ReturnRoster(call, timeout=CALL_S)
        answer = stub.GetRoster(asked, timeout=CALL_S)
    return keep_roster(home.roster, answer.roster, server) if answer.roster else known


def renew(home: MemberHome, keys: MemberKeys, stub: rpc.RegistryStub) -> x509.Certificate:
    """Have the TLS key certified again and keep the certificate in place of the old one.

    Raises:
        IdentityError: What the server sent is not a certificate for this key and name; the old one is kept.
    """
    csr, signature = make_renewal(keys)
    answer = stub.Renew(pb.RenewCall(csr=csr, signature=signature), timeout=CALL_S)
    certificate = checked_certificate(answer.certificate, keys)
    save_certificate(home.certificate, certificate)
    return certificate


def checked_certificate(der: bytes, keys: MemberKeys) -> x509.Certificate:
    """Read a certificate that the server sent for a member's keys. Who issued it, the next handshake shows.

    Raises:
        IdentityError: It is none, or for another key or name.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        fits = certificate.public_key() == keys.tls.public_key() and certified_id(certificate) == keys.id
    except ValueError:
        fits = False
    if not fits:
        raise IdentityError("the server sent no certificate for this member's key", expected=keys.id)
    return certificate
