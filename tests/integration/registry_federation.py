"""Who calls a town's registry and its door: members and newcomers, and strangers who show what they should not have."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security.authority import Authority, load_certificate
from security.enrolment import (
    Fingerprint,
    Grant,
    Invitation,
    MemberKeys,
    certificate_fingerprint,
    make_request,
    open_grant,
)
from security.grpc_tls import channel_credentials, server_credentials
from security.key_folder import open_key_folder
from security.keys import pkcs8_pem
from security.names import Role, SpiffeId
from server.house import open_house
from server.limits import RateLimit
from server.registry import serve_door, serve_registry
from tests.integration.town import FEDERATION, Town

HOUR = dt.timedelta(hours=1)
LIFTED = RateLimit(per_second=1e6, burst=1_000_000)
CALL_S = 20.0
UNTIL_S = 30.0

DOOR_CALLS = [f"/bottega.v1.Door/{call.name}" for call in pb.DESCRIPTOR.services_by_name["Door"].methods]
REGISTRY_CALLS = [f"/bottega.v1.Registry/{call.name}" for call in pb.DESCRIPTOR.services_by_name["Registry"].methods]


@dataclass(frozen=True)
class Card:
    """What somebody shows in a handshake: a private key and a chain of certificates, both PEM."""

    key: bytes
    chain: bytes


@dataclass(frozen=True)
class Person:
    """Somebody with keys, and the certificate that they got for them."""

    keys: MemberKeys
    card: Card

    @property
    def id(self) -> SpiffeId:
        return self.keys.id


def named(name: str, role: Role = Role.SITE) -> SpiffeId:
    return SpiffeId(FEDERATION, role, name)


def now_ms() -> int:
    return int(time.time() * 1000)


def until(done: Callable[[], object], what: str) -> None:
    """Wait for something that tells nobody when it happens."""
    end = time.monotonic() + UNTIL_S
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def card_of(keys: MemberKeys, certificate: x509.Certificate) -> Card:
    return Card(pem(keys.tls), certificate.public_bytes(Encoding.PEM))


def member(town: Town, name: str, role: Role = Role.SITE) -> Person:
    """Let somebody in by a file, and open what they were granted."""
    keys = MemberKeys.generate(named(name, role))
    grant = opened(town, keys, town.desk.bring(make_request(keys, invitation=None, now_ms=now_ms())))
    return Person(keys, card_of(keys, grant.certificate))


def opened(town: Town, keys: MemberKeys, grant: bytes) -> Grant:
    return open_grant(grant, keys=keys, authority=pinned(town), now_ms=now_ms())


def pinned(town: Town) -> Fingerprint:
    return certificate_fingerprint(load_certificate(town.home.authority_certificate))


def invited(
    town: Town, name: str, role: Role = Role.SITE, ttl: dt.timedelta = HOUR, *, auto: bool = False
) -> Invitation:
    return town.desk.invite(role, name, ttl, auto_approve=auto)


def asking(invitation: Invitation, keys: MemberKeys) -> pb.JoinCall:
    return pb.JoinCall(request=make_request(keys, invitation=invitation, now_ms=now_ms()))


def how_it_stands(keys: MemberKeys) -> pb.JoinStatusCall:
    return pb.JoinStatusCall(spiffe_id=str(keys.id), fingerprint=keys.fingerprint.digest)


@contextmanager
def channel_to(town: Town, port: int, card: Card | None = None) -> Iterator[grpc.Channel]:
    """Open a connection of one's own; nobody else's is used again."""
    authority = town.home.authority_certificate.read_bytes()
    credentials = channel_credentials(authority, card.key if card else None, card.chain if card else None)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield channel


@contextmanager
def registry_for(town: Town, card: Card | None) -> Iterator[rpc.RegistryStub]:
    with channel_to(town, town.port, card) as channel:
        yield rpc.RegistryStub(channel)


@contextmanager
def door_at(town: Town, port: int) -> Iterator[rpc.DoorStub]:
    with channel_to(town, port) as channel:
        yield rpc.DoorStub(channel)


def door_credentials(town: Town) -> grpc.ServerCredentials:
    key, certificate = pkcs8_pem(open_house(town.home).tls_key), town.home.certificate.read_bytes()
    return server_credentials(key, certificate + town.home.authority_certificate.read_bytes(), None)


@contextmanager
def a_door(town: Town, limit: RateLimit | None = None) -> Iterator[int]:
    """Open another door of the town, at which nobody has called yet. Yields its port."""
    server, port = serve_door(town.desk, "127.0.0.1:0", door_credentials(town), limit)
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextmanager
def a_registry(town: Town, limit: RateLimit | None = None) -> Iterator[int]:
    """Open another registry of the town. Yields its port."""
    key, certificate = pkcs8_pem(open_house(town.home).tls_key), town.home.certificate.read_bytes()
    credentials = server_credentials(key, certificate, town.home.authority_certificate.read_bytes())
    server, port = serve_registry(town.desk, "127.0.0.1:0", credentials, limit)
    try:
        yield port
    finally:
        server.stop(None).wait()


def raw(channel: grpc.Channel, call: str, message: bytes, compression: grpc.Compression | None = None) -> bytes:
    """Send bytes as the message of a call, whatever they are, and return the bytes of the answer."""
    answer: bytes = channel.unary_unary(call, None, None)(message, timeout=CALL_S, compression=compression)
    return answer


class Refusal(NamedTuple):
    """How a call ended that was not answered."""

    code: grpc.StatusCode
    words: str


def refusal(act: Callable[[], object]) -> Refusal:
    """Make a call that must not be answered, and return what came instead."""
    try:
        act()
    except grpc.RpcError as error:
        return Refusal(error.code(), error.details() or "")
    raise AssertionError("the call was answered")


# --- certificates that nobody should have ---


def forged(
    uri: str | None,
    issuer: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    *,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    end: dt.timedelta = HOUR,
) -> Card:
    """Make a leaf as an authority of ours would, but for what is asked; the authority itself makes no such ones."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "forged")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=False)
    return Card(pem(key), builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM))


def by_the_authority(
    town: Town,
    uri: str | None,
    purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    end: dt.timedelta = HOUR,
) -> Card:
    """Make a leaf with the town's own authority's key, as who stole it would."""
    authority = Authority.load(open_key_folder(town.home))
    return forged(uri, authority.certificate, authority.key, purpose=purpose, end=end)


def self_signed(uri: str) -> Card:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "myself")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - HOUR).not_valid_after(now + HOUR)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return Card(pem(key), certificate.public_bytes(Encoding.PEM))


# --- connections without gRPC's good manners ---


def tls_client(card: Card | None = None, folder: Path | None = None) -> ssl.SSLContext:
    """Return a client that believes anybody; with a card it shows it (by a file, the only way that Python has)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if card is not None and folder is not None:
        file = folder / "card.pem"
        file.write_bytes(card.key + card.chain)
        context.load_cert_chain(file)
    return context


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), UNTIL_S)


def http2_call(path: str) -> bytes:
    """Return all that a client has to send to make a call with an empty message (RFC 9113, RFC 7541)."""
    headers = {
        ":method": "POST", ":scheme": "https", ":path": path, ":authority": "127.0.0.1",
        "te": "trailers", "content-type": "application/grpc",
    }  # fmt: skip
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return preface + _frame(4, 0, 0, b"") + _frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5))


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def was_dropped(connection: socket.socket) -> bool:
    """Read until the other side ends the connection; an answer before that is passed over."""
    connection.settimeout(UNTIL_S)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def from_elsewhere(port: int, address: str = "127.0.0.2") -> Iterator[int]:
    """Relay connections from another address of this machine. Yields the port to call instead."""
    with ExitStack() as ends, socket.create_server(("127.0.0.1", 0)) as listening:

        def relay() -> None:
            with suppress(OSError):
                while True:
                    near = listening.accept()[0]
                    far = socket.create_connection(("127.0.0.1", port), UNTIL_S, source_address=(address, 0))
                    far.settimeout(None)
                    for end in (near, far):
                        ends.callback(end.close)
                        ends.callback(_shut, end)
                    for source, sink in ((near, far), (far, near)):
                        threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

        threading.Thread(target=relay, daemon=True).start()
        yield listening.getsockname()[1]
        _shut(listening)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
