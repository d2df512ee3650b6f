"""Attacks on the registry and the door. Each test is named after its attack; afterwards an honest call is answered."""

from __future__ import annotations

import base64
import datetime as dt
import itertools
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.joining import join_as_site
from common.errors import IdentityError, ProcessError
from common.paths import SiteHome
from common.proto import registry_pb2 as pb
from common.proto.roster_pb2 import SignedRoster
from security import roster as roster_module
from security.authority import create_authority
from security.enrolment import Invitation, MemberKeys
from security.grpc_tls import refuse_old_tls
from security.https_tls import server_context
from security.keys import pkcs8_pem
from security.names import Role, SpiffeId
from security.renewal import make_renewal
from security.rotation import rotate
from server import desk as desk_module
from server import registry as registry_module
from server.house import open_house
from server.limits import RateLimit
from server.registry import MOST_DOOR_BYTES, MOST_REGISTRY_BYTES
from tests.attacks.fuzz import fuzz
from tests.integration.registry_federation import (
    CALL_S,
    DOOR_CALLS,
    LIFTED,
    REGISTRY_CALLS,
    Card,
    Person,
    Refusal,
    a_door,
    a_registry,
    asking,
    by_the_authority,
    channel_to,
    connected,
    door_at,
    forged,
    from_elsewhere,
    how_it_stands,
    http2_call,
    invited,
    member,
    named,
    now_ms,
    opened,
    pinned,
    raw,
    refusal,
    registry_for,
    self_signed,
    tls_client,
    until,
    was_dropped,
)
from tests.integration.town import FEDERATION, Town, a_town

GET_ROSTER, JOIN, JOIN_STATUS = "/bottega.v1.Registry/GetRoster", "/bottega.v1.Door/Join", "/bottega.v1.Door/JoinStatus"
PORTS = ["registry", "door"]
fresh = (f"newcomer-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with a_town(tmp_path_factory.mktemp("town")) as town:
        invited(town, "always-expected")
        yield town


@pytest.fixture(scope="module")
def rossi(town: Town) -> Person:
    return member(town, "rossi")


@pytest.fixture(scope="module")
def operator(town: Town) -> Person:
    return member(town, "anna", Role.OPERATOR)


@pytest.fixture
def door(town: Town) -> Iterator[int]:
    """A door where nobody has called yet; afterwards an honest newcomer, who lives elsewhere, comes in by it."""
    with a_door(town) as port:
        yield port
        assert an_honest_newcomer_comes_in(town, port)


@pytest.fixture(autouse=True)
def afterwards(town: Town, rossi: Person, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever was tried, honest members are still answered, and nothing of ours broke."""
    caplog.set_level(logging.INFO)
    yield
    known = open_house(town.home).roster.version  # whole rosters are handed out at a measured pace
    with registry_for(town, rossi.card) as registry:
        assert registry.GetRoster(pb.GetRosterCall(known_version=known), timeout=CALL_S).roster == b""
    assert [record for record in caplog.get_records("call") if record.exc_info] == []


def an_honest_newcomer_comes_in(town: Town, port: int) -> bool:
    invitation = invited(town, next(fresh), auto=True)
    keys = MemberKeys.generate(invitation.spiffe_id)
    with from_elsewhere(port) as other, door_at(town, other) as newcomers:
        answer = newcomers.Join(asking(invitation, keys), timeout=CALL_S)
    return opened(town, keys, answer.grant).member == keys.public


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Callable[[str], bool]:
    """Tell whether gRPC has said something, by now, of a handshake: it writes to the error stream itself."""
    so_far: list[str] = []

    def has(words: str) -> bool:
        so_far.append(capfd.readouterr().err)
        return words in "".join(so_far)

    return has


def port_of(town: Town, which: str) -> int:
    return town.port if which == "registry" else town.door


# --- certificates ---


def another_authority(_: Town) -> Card:
    other = create_authority(FEDERATION)
    return forged(str(named("rossi")), other.certificate, other.key)


def a_members_own_leaf(town: Town) -> Card:
    """A chain in which a member plays the authority."""
    mallory = member(town, "mallory-the-issuer")
    key = load_pem_private_key(mallory.card.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    leaf = forged(str(named("anna", Role.OPERATOR)), load_pem_x509_certificate(mallory.card.chain), key)
    return Card(leaf.key, leaf.chain + mallory.card.chain)


def the_servers_own(town: Town) -> Card:
    return Card(pkcs8_pem(open_house(town.home).tls_key), town.home.certificate.read_bytes())


AT_THE_HANDSHAKE: dict[str, tuple[Callable[[Town], Card | None], str]] = {
    "no certificate": (lambda _: None, "PEER_DID_NOT_RETURN_A_CERTIFICATE"),
    "expired": (
        lambda town: by_the_authority(town, str(named("rossi")), end=-dt.timedelta(seconds=1)),
        "certificate has expired",
    ),
    "another CA with the same names": (another_authority, "certificate signature failure"),
    "self-signed": (lambda _: self_signed(str(named("rossi"))), "self signed certificate"),
    "a member as CA": (a_members_own_leaf, "CERTIFICATE_VERIFY_FAILED"),
    "no name": (lambda town: by_the_authority(town, None), "leaf has no SANs"),
    "of another federation": (
        lambda town: by_the_authority(town, "spiffe://other.test/site/rossi"),
        "permitted subtree violation",
    ),
    "for servers only": (
        lambda town: by_the_authority(town, str(named("rossi")), ExtendedKeyUsageOID.SERVER_AUTH),
        "certificate purpose",
    ),
    "the server's own": (the_servers_own, "certificate purpose"),
}


@pytest.mark.parametrize("attack", AT_THE_HANDSHAKE)
def test_a_certificate_that_the_handshake_refuses(attack: str, town: Town, told: Callable[[str], bool]) -> None:
    made, reason = AT_THE_HANDSHAKE[attack]
    with registry_for(town, made(town)) as registry:
        error = refusal(lambda: registry.GetRoster(pb.GetRosterCall(), timeout=CALL_S))
    assert error.code is grpc.StatusCode.UNAVAILABLE
    until(lambda: told(reason), f"no line in the log: {reason}")


AT_THE_GATE: dict[str, tuple[str, grpc.StatusCode, str]] = {
    "no SPIFFE id": ("https://members.test/", grpc.StatusCode.UNAUTHENTICATED, "no SPIFFE id"),
    "an unknown role": ("spiffe://members.test/king/rossi", grpc.StatusCode.UNAUTHENTICATED, "no known role"),
    "the server's name": (
        "spiffe://members.test/server/server",
        grpc.StatusCode.PERMISSION_DENIED,
        "a server may not do this",
    ),
    "a name nobody knows": (
        "spiffe://members.test/site/nobody",
        grpc.StatusCode.PERMISSION_DENIED,
        "nobody is not an active member",
    ),
    "a known name in another role": (
        "spiffe://members.test/auditor/rossi",
        grpc.StatusCode.PERMISSION_DENIED,
        "rossi is not an active member",
    ),
}


@pytest.mark.parametrize("attack", AT_THE_GATE)
def test_a_certificate_of_the_right_authority_that_names_nobody_who_may_call(
    attack: str, town: Town, caplog: pytest.LogCaptureFixture
) -> None:
    uri, code, words = AT_THE_GATE[attack]
    with registry_for(town, by_the_authority(town, uri)) as registry:
        error = refusal(lambda: registry.GetRoster(pb.GetRosterCall(), timeout=CALL_S))
    assert error.code is code
    assert words in error.words
    assert any(GET_ROSTER in line and words in line for line in caplog.messages)


def test_a_call_in_the_wrong_role(
    town: Town, rossi: Person, operator: Person, caplog: pytest.LogCaptureFixture
) -> None:
    with registry_for(town, rossi.card) as registry:
        error = refusal(lambda: registry.Revoke(pb.DecideCall(role="operator", name="anna", reason="mine now")))
    assert error == (grpc.StatusCode.PERMISSION_DENIED, "a site may not do this")
    assert f"refused: '/bottega.v1.Registry/Revoke', called by {rossi.id}" in caplog.text
    assert operator.id in open_house(town.home).roster


def test_a_revoked_member_on_a_connection_that_was_open_before(town: Town, caplog: pytest.LogCaptureFixture) -> None:
    leaver = member(town, "leaver")
    with registry_for(town, leaver.card) as registry:
        assert registry.GetRoster(pb.GetRosterCall()).roster
        town.desk.revoke(Role.SITE, "leaver", "left")
        csr, signature = make_renewal(leaver.keys)
        for call in (
            lambda: registry.GetRoster(pb.GetRosterCall()),
            lambda: registry.Renew(pb.RenewCall(csr=csr, signature=signature)),
        ):
            assert refusal(call) == (grpc.StatusCode.PERMISSION_DENIED, "leaver is not an active member")
    assert f"called by {leaver.id}: leaver is not an active member" in caplog.text


def test_a_certificate_that_runs_out_on_a_connection_that_stays_open(
    town: Town, rossi: Person, caplog: pytest.LogCaptureFixture
) -> None:
    card = by_the_authority(town, str(rossi.id), end=dt.timedelta(seconds=3))
    with channel_to(town, town.port, card) as channel:
        assert raw(channel, GET_ROSTER, b"")
        until(lambda: ended(channel, GET_ROSTER) is grpc.StatusCode.UNAUTHENTICATED, "it was never refused")
    assert f"called by {rossi.id}: the certificate has run out" in caplog.text


def test_a_handshake_that_takes_up_an_earlier_one_after_the_certificate_ran_out(
    town: Town, rossi: Person, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS sessions outlive certificates: a resumption looks at none (RFC 8446, section 4.6.1)."""
    card = by_the_authority(town, str(rossi.id), end=dt.timedelta(seconds=3))
    context, refused = tls_client(card, tmp_path), f"called by {rossi.id}: the certificate has run out"
    with context.wrap_socket(connected(town.port), server_hostname="127.0.0.1") as first:
        first.sendall(http2_call(GET_ROSTER))
        assert first.recv(1)
        session = first.session
    with channel_to(town, town.port, card) as channel:
        until(lambda: ended(channel, GET_ROSTER) is grpc.StatusCode.UNAUTHENTICATED, "it was never refused")
    caplog.clear()
    with context.wrap_socket(connected(town.port), server_hostname="127.0.0.1", session=session) as second:
        assert second.session_reused
        second.sendall(http2_call(GET_ROSTER))
        until(lambda: refused in caplog.text, "it was not refused")


def ended(channel: grpc.Channel, call: str, message: bytes = b"") -> grpc.StatusCode:
    try:
        raw(channel, call, message)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_keys_that_were_replaced_fetch_a_certificate_at_the_door(town: Town, door: int) -> None:
    """Who stole the keys before the rotation has all that the old grant was sealed to, and asks again."""
    victim = member(town, "victim", Role.OPERATOR)
    after = MemberKeys.generate(victim.id)
    rotation = rotate(victim.keys.identity, after.identity, serial=1, now_ms=0)
    town.desk.rotate(victim.id, rotation.signed, *make_renewal(after))
    with door_at(town, door) as newcomers:
        error = refusal(lambda: newcomers.JoinStatus(how_it_stands(victim.keys)))
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "gone over to new keys" in error.words


def test_a_stolen_tls_key_has_itself_certified_by_a_rotation_that_everybody_knows(town: Town) -> None:
    """A member's rotation stands in the roster, and the certificate of one generation before may hand it in again."""
    victim = member(town, "victim-again", Role.OPERATOR)
    after = MemberKeys.generate(victim.id)
    rotation = rotate(victim.keys.identity, after.identity, serial=1, now_ms=0)
    mine = MemberKeys.generate(victim.id)  # the thief's, but for the TLS key and certificate that opened the connection
    with registry_for(town, victim.card) as registry:
        csr, signature = make_renewal(after)
        first = registry.Rotate(pb.RotateCall(rotation=rotation.signed, csr=csr, signature=signature), timeout=CALL_S)
        again = registry.Rotate(pb.RotateCall(rotation=rotation.signed, csr=csr, signature=signature), timeout=CALL_S)
        assert first.certificate
        assert again.certificate
        for forged_by in (make_renewal(mine), (make_renewal(mine)[0], signature), (make_renewal(mine)[0], b"")):
            call = pb.RotateCall(rotation=rotation.signed, csr=forged_by[0], signature=forged_by[1])
            error = refusal(partial(registry.Rotate, call, timeout=CALL_S))
            assert error.code is grpc.StatusCode.FAILED_PRECONDITION
            assert "signed by the key that the roster has" in error.words


def test_a_rotation_that_was_followed_by_another_is_handed_in_again(town: Town) -> None:
    victim = member(town, "victim-twice", Role.OPERATOR)
    once, twice = (MemberKeys.generate(victim.id) for _ in range(2))
    first = rotate(victim.keys.identity, once.identity, serial=1, now_ms=0)
    town.desk.rotate(victim.id, first.signed, *make_renewal(once))
    second = rotate(once.identity, twice.identity, serial=2, now_ms=0)
    town.desk.rotate(victim.id, second.signed, *make_renewal(twice))
    with pytest.raises(IdentityError, match="rotated again since"):
        town.desk.rotate(victim.id, first.signed, *make_renewal(once))


def test_a_call_that_was_opened_before_the_revocation_brings_its_message_after_it(town: Town) -> None:
    """The gate lets a caller in before the message is read; what they may do is looked up again when it has come."""
    mallory = member(town, "mallory-waits", Role.OPERATOR)
    late, opened_first = threading.Event(), threading.Event()

    def message() -> Iterator[bytes]:
        opened_first.set()
        late.wait(CALL_S)
        yield pb.InviteCall(role="operator", name="ghost", ttl_s=3600, auto_approve=True).SerializeToString()

    with channel_to(town, town.port, mallory.card) as channel:
        call = channel.stream_unary("/bottega.v1.Registry/Invite", None, None)
        pending = call.future(message(), timeout=CALL_S)
        assert opened_first.wait(CALL_S)
        time.sleep(0.5)  # so that the gate has decided for the first time
        town.desk.revoke(Role.OPERATOR, "mallory-waits", "left")
        late.set()
        error = refusal(pending.result)
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


def test_the_invitations_of_a_revoked_operator_let_nobody_in(town: Town, door: int) -> None:
    member(town, "mallory-invites", Role.OPERATOR)
    token = invited(town, "ghost-two", Role.OPERATOR, auto=True)
    town.desk.revoke(Role.OPERATOR, "mallory-invites", "left")
    with door_at(town, door) as newcomers:
        error = refusal(lambda: newcomers.Join(asking(token, MemberKeys.generate(token.spiffe_id))))
    assert "the invitation has expired" in error.words
    invited(town, "always-expected-again")


def test_an_invitation_for_ever(town: Town) -> None:
    with pytest.raises(IdentityError, match="cannot have this lifetime"):
        town.desk.invite(Role.SITE, "for-ever", dt.timedelta(days=8), auto_approve=True)


def test_a_member_is_denied_after_all(town: Town) -> None:
    member(town, "member-already")
    with pytest.raises(IdentityError, match="belongs to the federation already"):
        town.desk.deny(Role.SITE, "member-already", "the words differ")
    assert named("member-already") in open_house(town.home).roster


@pytest.mark.parametrize("reason", ["", "\x1b[2J", "x" * 300_000], ids=["none", "escapes", "long"])
def test_a_reason_that_nobody_can_read(town: Town, reason: str) -> None:
    with pytest.raises(IdentityError, match="no reason that others can read"):
        town.desk.deny(Role.SITE, "whoever", reason)


def test_a_forged_roster_is_refused_before_it_is_read(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    house = open_house(town.home)
    signed = SignedRoster.FromString(house.published[1])
    forged_one = SignedRoster(content=signed.content + b"\x00", signature=signed.signature).SerializeToString()
    monkeypatch.setattr(roster_module, "_member_from_wire", None)  # whoever reads a member breaks
    with pytest.raises(IdentityError, match=r"not signed by this server|cannot be read|plain encoding"):
        house.adopt(forged_one)


def test_a_member_rotates_without_end(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rotation stays in the roster, which all members fetch."""
    monkeypatch.setattr(desk_module, "MOST_ROTATIONS", 2)
    keys = [
        member(town, "rotates", Role.OPERATOR).keys,
        *(MemberKeys.generate(named("rotates", Role.OPERATOR)) for _ in range(3)),
    ]
    for serial in (1, 2):
        rotation = rotate(keys[serial - 1].identity, keys[serial].identity, serial=serial, now_ms=0)
        town.desk.rotate(keys[0].id, rotation.signed, *make_renewal(keys[serial]))
    third = rotate(keys[2].identity, keys[3].identity, serial=3, now_ms=0)
    with pytest.raises(IdentityError, match="rotated too often"):
        town.desk.rotate(keys[0].id, third.signed, *make_renewal(keys[3]))


# --- tokens ---


def test_a_stolen_token_used_twice(town: Town, door: int, caplog: pytest.LogCaptureFixture) -> None:
    invitation = invited(town, "robbed")
    thief, robbed = (MemberKeys.generate(invitation.spiffe_id) for _ in range(2))
    with door_at(town, door) as newcomers:
        assert newcomers.Join(asking(invitation, thief)).state == pb.JOIN_STATE_WAITING
        error = refusal(lambda: newcomers.Join(asking(invitation, robbed)))
    assert "used before, by other keys" in error.words
    assert "tell the operator at once" in error.words
    assert refused_at_the_door(caplog, "the invitation was used before, by other keys")
    assert robbed.id not in open_house(town.home).roster


def test_an_expired_token(town: Town, door: int, caplog: pytest.LogCaptureFixture) -> None:
    invitation = invited(town, "late", ttl=dt.timedelta(milliseconds=1))
    until(lambda: invitation.expired(now_ms()), "time stands still")
    with door_at(town, door) as newcomers:
        error = refusal(lambda: newcomers.Join(asking(invitation, MemberKeys.generate(invitation.spiffe_id))))
    assert "the invitation has expired" in error.words
    assert refused_at_the_door(caplog, "the invitation has expired")


def test_an_expired_token_for_a_name_that_was_denied_before(town: Town, door: int) -> None:
    """The name is in the table already; it is the invitation that counts."""
    first = invited(town, "denied-once")
    with door_at(town, door) as newcomers:
        newcomers.Join(asking(first, MemberKeys.generate(first.spiffe_id)))
        town.desk.deny(Role.SITE, "denied-once", "not yet")
        late = invited(town, "denied-once", auto=True, ttl=dt.timedelta(milliseconds=1))
        until(lambda: late.expired(now_ms()), "time stands still")
        error = refusal(lambda: newcomers.Join(asking(late, MemberKeys.generate(late.spiffe_id))))
    assert "the invitation has expired" in error.words
    assert late.spiffe_id not in open_house(town.home).roster


@pytest.mark.parametrize("who", [named("mallory"), named("the-invited", Role.OPERATOR)], ids=["name", "role"])
def test_a_token_for_another_name(who: SpiffeId, town: Town, door: int, caplog: pytest.LogCaptureFixture) -> None:
    real = invited(town, "the-invited")
    turned = Invitation(who, real.address, real.authority, real.id, real.secret, real.expires_at_ms)
    with door_at(town, door) as newcomers:
        error = refusal(lambda: newcomers.Join(asking(turned, MemberKeys.generate(who))))
    assert "the invitation is for somebody else" in error.words
    assert who.name == "the-invited" or "the-invited" not in error.words, "who was invited is not told"
    assert refused_at_the_door(caplog, "the invitation is for somebody else")


def test_a_guessed_secret_and_a_guessed_invitation_are_told_in_the_same_words(
    town: Town, door: int, caplog: pytest.LogCaptureFixture
) -> None:
    real = invited(town, "guessed")
    keys = MemberKeys.generate(real.spiffe_id)
    with door_at(town, door) as newcomers:

        def guessing(number: bytes, secret: bytes) -> Refusal:
            guess = Invitation(real.spiffe_id, real.address, real.authority, number, secret, real.expires_at_ms)
            return refusal(lambda: newcomers.Join(asking(guess, keys)))

        said = {guessing(real.id, bytes(32)), guessing(bytes(16), real.secret), guessing(bytes(16), bytes(32))}
        assert len(said) == 1
        assert "not known here" in said.pop().words
        assert refused_at_the_door(caplog, "the invitation is not known here")
        assert newcomers.Join(asking(real, keys)).state == pb.JOIN_STATE_WAITING, "a guess uses up nothing"


def test_asking_for_names_that_may_be_there(town: Town, door: int) -> None:
    """With other keys, a name that waits and one that nobody has are told apart by nothing."""
    waiting = invited(town, "there")
    with door_at(town, door) as newcomers:
        newcomers.Join(asking(waiting, MemberKeys.generate(waiting.spiffe_id)))

        def asking_for(name: str) -> tuple[grpc.StatusCode, str]:
            error = refusal(lambda: newcomers.JoinStatus(how_it_stands(MemberKeys.generate(named(name)))))
            return error.code, error.words.replace(name, "somebody")

        assert asking_for("there") == asking_for("gone") == asking_for("rossi")


def refused_at_the_door(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    return any(
        line.startswith(f"refused: '{JOIN}', called by 127.0.0.1: ") and words in line for line in caplog.messages
    )


def test_a_request_replayed_by_another_connection(town: Town, door: int) -> None:
    invitation = invited(town, "replayed", auto=True)
    keys = MemberKeys.generate(invitation.spiffe_id)
    call, answers = asking(invitation, keys), []
    with door_at(town, door) as newcomers:
        answers.append(newcomers.Join(call))
    version = open_house(town.home).roster.version
    for _ in range(3):
        with from_elsewhere(door, "127.0.0.3") as other, door_at(town, other) as replay:
            answers.append(replay.Join(call))
    assert {answer.state for answer in answers} == {pb.JOIN_STATE_APPROVED}
    assert open_house(town.home).roster.version == version
    assert sum(row.name == "replayed" for row in town.desk.applicants()) == 1
    for answer in answers:  # whoever replays gets what the newcomer's keys alone open
        with pytest.raises(IdentityError):
            opened(town, MemberKeys.generate(keys.id), answer.grant)


# --- TLS and what is none ---


@pytest.mark.parametrize("which", PORTS)
def test_tls_1_2_is_offered(which: str, town: Town, rossi: Person, tmp_path: Path, told: Callable[[str], bool]) -> None:
    context = tls_client(rossi.card, tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connected(port_of(town, which)) as plain, pytest.raises(OSError, match=r"EOF|alert|reset"):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    until(lambda: told("NO_SHARED_CIPHER"), "no line in the log")


@pytest.mark.parametrize("which", PORTS)
def test_tls_is_1_3_with_a_member_of_today(which: str, town: Town, rossi: Person, tmp_path: Path) -> None:
    """What the test above would not notice: that the port answers at all."""
    context = tls_client(rossi.card, tmp_path)
    with context.wrap_socket(connected(port_of(town, which)), server_hostname="127.0.0.1") as secured:
        assert (secured.version(), secured.selected_alpn_protocol()) == ("TLSv1.3", "h2")


def test_a_server_that_would_speak_tls_1_2_opens_no_port(town: Town) -> None:
    home = town.home
    context = server_context(open_house(home).tls_key, home.certificate.read_bytes())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as plain, pytest.raises(OSError, match=r".*"):
                context.wrap_socket(plain, server_side=True)

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(ProcessError, match=r"would speak TLS 1\.2"):
            refuse_old_tls("127.0.0.1", listening.getsockname()[1])
        answering.join()
    with pytest.raises(ProcessError, match="cannot be told"):
        refuse_old_tls("host.invalid", 1)


def test_a_program_that_imported_grpc_too_early_opens_no_port(tmp_path: Path) -> None:
    program = (
        "import grpc, sys, pathlib\n"
        "from tests.integration.town import a_town\n"
        "with a_town(pathlib.Path(sys.argv[1])): print('open')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False,
        cwd=Path(__file__).parents[2], env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "open" not in ran.stdout
    assert "the port would speak TLS 1.2" in ran.stderr


@pytest.mark.parametrize("which", PORTS)
def test_grpc_without_tls(which: str, town: Town, told: Callable[[str], bool]) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port_of(town, which)}") as channel:
        assert refusal(lambda: raw(channel, GET_ROSTER, b"")).code is grpc.StatusCode.UNAVAILABLE
    until(lambda: told("Handshake failed"), "no line in the log")


@pytest.mark.parametrize("which", PORTS)
@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(1000), b"\x16\x03\x01\xff\xff" * 9],
    ids=["HTTP 1.1", "HTTP 2", "zeros", "broken TLS"],
)
def test_plaintext_and_garbage(sent: bytes, which: str, town: Town, told: Callable[[str], bool]) -> None:
    with connected(port_of(town, which)) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP" not in connection.recv(4096)
        assert was_dropped(connection)
    until(lambda: told("Handshake failed"), "no line in the log")


# --- too much ---


@pytest.mark.parametrize(
    ("which", "call", "most"), [("registry", GET_ROSTER, MOST_REGISTRY_BYTES), ("door", JOIN, MOST_DOOR_BYTES)]
)
def test_an_oversize_message(
    which: str, call: str, most: int, town: Town, rossi: Person, door: int, caplog: pytest.LogCaptureFixture
) -> None:
    port, card = (town.port, rossi.card) if which == "registry" else (door, None)
    with channel_to(town, port, card) as channel:
        error = refusal(lambda: raw(channel, call, bytes(most + 1)))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        # Small on the way, and too long once it is unpacked.
        error = refusal(lambda: raw(channel, call, bytes(20 * most), grpc.Compression.Gzip))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    until(
        lambda: sum("no message came that can be taken" in line for line in caplog.messages) == 2, "no line in the log"
    )


@pytest.mark.parametrize("which", PORTS)
def test_oversize_metadata(which: str, town: Town, rossi: Person, door: int) -> None:
    port, card = (town.port, rossi.card) if which == "registry" else (door, None)
    with channel_to(town, port, card) as channel:
        call = channel.unary_unary(GET_ROSTER if which == "registry" else JOIN, None, None)
        one = refusal(lambda: call(b"", metadata=(("x", "a" * 100_000),), timeout=CALL_S))
        many = refusal(lambda: call(b"", metadata=tuple((f"x{n}", "a" * 100) for n in range(1000)), timeout=CALL_S))
    assert (one.code, many.code) == (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_flood_from_one_address(town: Town, door: int, caplog: pytest.LogCaptureFixture) -> None:
    with channel_to(town, door) as channel:
        codes = [ended(channel, JOIN_STATUS) for _ in range(500)]
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert sum("refused: a flood of calls by 127.0.0.1" in line for line in caplog.messages) == 1


def test_a_flood_by_one_member_leaves_the_others_at_their_address_alone(
    town: Town, rossi: Person, caplog: pytest.LogCaptureFixture
) -> None:
    flooder = member(town, "flooder")
    with a_registry(town, RateLimit(per_second=1e-9, burst=5)) as port:
        with channel_to(town, port, flooder.card) as channel:
            codes = [refusal(lambda: raw(channel, "/bottega.v1.Registry/Invite", b"")).code for _ in range(10)]
        assert codes == [grpc.StatusCode.PERMISSION_DENIED] * 5 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 5
        with channel_to(town, port, rossi.card) as channel:
            assert raw(channel, GET_ROSTER, b"")
    assert f"refused: a flood of calls by {flooder.id}" in caplog.text


# --- too slow ---


@pytest.mark.parametrize("which", PORTS)
def test_slowloris_in_the_handshake(which: str, town: Town, rossi: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty connections that say hello byte by byte: honest calls are answered meanwhile, and they are dropped."""
    monkeypatch.setattr(registry_module, "_HANDSHAKE_MS", 1000)
    with open_port(town, which) as port, ExitStack() as open_sockets:
        slow = [open_sockets.enter_context(connected(port)) for _ in range(20)]
        for byte in hello()[:5]:
            for connection in slow:
                connection.sendall(bytes([byte]))
            assert honest_call(town, which, port, rossi)
        assert all(was_dropped(connection) for connection in slow)
        assert honest_call(town, which, port, rossi)


@pytest.mark.parametrize("which", PORTS)
def test_slowloris_in_http2(
    which: str, town: Town, rossi: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handshake is done, and then HTTP/2 begins letter by letter and never ends."""
    monkeypatch.setattr(registry_module, "_HANDSHAKE_MS", 1500)
    context = tls_client(rossi.card, tmp_path)
    with open_port(town, which) as port, ExitStack() as open_sockets:
        slow = [
            open_sockets.enter_context(context.wrap_socket(connected(port), server_hostname="127.0.0.1"))
            for _ in range(20)
        ]
        for letter in b"PRI *":
            for connection in slow:
                connection.sendall(bytes([letter]))
            assert honest_call(town, which, port, rossi)
        assert all(was_dropped(connection) for connection in slow)
        assert honest_call(town, which, port, rossi)


def test_calls_that_never_say_what_they_ask(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From one address they take a quarter of the threads; from many all of them, until their time is over."""
    monkeypatch.setattr(registry_module, "_PATIENCE_S", 1.0)
    with a_door(town, LIFTED) as port, ExitStack() as attack:
        silent = held_open(attack, town, port, 12)
        until(lambda: sum(call.done() for call in silent) == 8, "more than four were listened to")
        assert an_honest_newcomer_comes_in(town, port)
        for number in range(10, 14):
            address = attack.enter_context(from_elsewhere(port, f"127.0.0.{number}"))
            silent += held_open(attack, town, address, 4)
        assert an_honest_newcomer_comes_in(town, port)
        until(lambda: all(call.done() for call in silent) or not an_honest_newcomer_comes_in(town, port), "still open")
    assert {call.code() for call in silent} <= {grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert "hung up on 127.0.0.1: it opened a call and did not say what it asks" in caplog.text


def test_a_member_whose_calls_never_say_what_they_ask(town: Town, rossi: Person) -> None:
    mallory = member(town, "mallory-the-silent")
    with a_registry(town) as port, ExitStack() as attack:
        silent = held_open(attack, town, port, 40, mallory.card, GET_ROSTER)
        until(lambda: sum(call.done() for call in silent) == 36, "more than four were listened to")
        with channel_to(town, port, rossi.card) as channel:
            assert raw(channel, GET_ROSTER, b"")


def held_open(
    attack: ExitStack, town: Town, port: int, count: int, card: Card | None = None, call: str = JOIN
) -> list[Any]:
    """Open calls of which the message never comes; they end with the attack."""
    over = threading.Event()
    attack.callback(over.set)

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    channels = [attack.enter_context(channel_to(town, port, card)) for _ in range((count + 7) // 8)]
    return [channels[number // 8].stream_unary(call, None, None).future(nothing()) for number in range(count)]


def test_many_idle_connections(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """They fill the door up to its limit, and no further; they do not stay; and the registry does not feel them."""
    monkeypatch.setattr(registry_module, "_MOST_NEWCOMERS", 8)
    monkeypatch.setattr(registry_module, "_NEWCOMERS_IDLE_MS", 1000)
    begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    with a_door(town) as port, ExitStack() as open_sockets:
        idle = []
        for _ in range(20):
            try:
                secured = tls_client().wrap_socket(open_sockets.enter_context(connected(port)), server_hostname="x")
                secured.sendall(begin)
                idle.append(open_sockets.enter_context(secured))
            except OSError:
                continue
        assert len(idle) <= 8
        assert all(was_dropped(connection) for connection in idle)
        assert an_honest_newcomer_comes_in(town, port)


@contextmanager
def open_port(town: Town, which: str) -> Iterator[int]:
    with a_registry(town) if which == "registry" else a_door(town, LIFTED) as port:
        yield port


def honest_call(town: Town, which: str, port: int, rossi: Person) -> bool:
    if which == "door":
        return an_honest_newcomer_comes_in(town, port)
    with channel_to(town, port, rossi.card) as channel:
        return bool(raw(channel, GET_ROSTER, b""))


def hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        tls_client().wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


# --- the wrong service ---

STRANGE = [
    "/bottega.v1.SiteAgent/Answer",
    "/bottega.v1.SiteAgent/GetStatus",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.health.v1.Health/Check",
    "/grpc.channelz.v1.Channelz/GetServers",
    "/bottega.v1.Registry/getroster",
    "/bottega.v1.Registry/GetRoster/",
    "/bottega.v1.Registry/",
    "//GetRoster",
    "/",
]


@pytest.mark.parametrize("call", [*DOOR_CALLS, *STRANGE])
def test_a_call_of_another_service_on_the_registry(
    call: str, town: Town, operator: Person, caplog: pytest.LogCaptureFixture
) -> None:
    with channel_to(town, town.port, operator.card) as channel:
        error = refusal(lambda: raw(channel, call, b""))
    assert error == (grpc.StatusCode.UNIMPLEMENTED, "there is no such call here")
    assert f"refused: {call!r}, called by {operator.id}: there is no such call here" in caplog.text


@pytest.mark.parametrize("call", [*REGISTRY_CALLS, *STRANGE])
def test_a_call_of_another_service_at_the_door(call: str, town: Town, caplog: pytest.LogCaptureFixture) -> None:
    with a_door(town) as port, channel_to(town, port) as channel:
        error = refusal(lambda: raw(channel, call, b""))
    assert error == (grpc.StatusCode.UNIMPLEMENTED, "there is no such call here")
    assert f"refused: {call!r}, called by 127.0.0.1: there is no such call here" in caplog.text


# --- who stands in between ---


class Impostor:
    """A server that shows what certificates it has, and keeps every byte that it is told."""

    def __init__(self, card: Card, folder: Path) -> None:
        file = folder / "impostor.pem"
        file.write_bytes(card.key + card.chain)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.set_alpn_protocols(["h2"])
        self._context.load_cert_chain(file)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.heard, self.called = b"", 0
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Impostor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _listen(self) -> None:
        while True:
            try:
                plain = self._listening.accept()[0]
            except OSError:
                return
            self.called += 1
            plain.settimeout(5)
            try:
                with self._context.wrap_socket(plain, server_side=True) as secured:
                    secured.settimeout(5)
                    while told := secured.recv(4096):
                        self.heard += told
            except OSError:
                plain.close()


def its_own_authority(town: Town) -> Card:
    other = create_authority(FEDERATION)
    return forged(None, other.certificate, other.key, purpose=ExtendedKeyUsageOID.SERVER_AUTH)


def its_own_authority_and_ours_beside_it(town: Town) -> Card:
    """The true authority's certificate is no secret: the door shows it to everybody."""
    mine = its_own_authority(town)
    return Card(mine.key, mine.chain + town.home.authority_certificate.read_bytes())


def a_members_certificate(town: Town) -> Card:
    """By the true authority, and of somebody whose name is that of the host."""
    mallory = member(town, "localhost")
    return Card(mallory.card.key, mallory.card.chain + town.home.authority_certificate.read_bytes())


@pytest.mark.parametrize(
    "shown", [its_own_authority, its_own_authority_and_ours_beside_it, a_members_certificate], ids=lambda f: f.__name__
)
def test_somebody_stands_between_newcomer_and_door(shown: Callable[[Town], Card], town: Town, tmp_path: Path) -> None:
    with Impostor(shown(town), tmp_path) as impostor:
        invitation = Invitation.create(
            named("deceived"), f"localhost:{impostor.port}", pinned(town), invited(town, next(fresh)).expires_at_ms
        )
        home = SiteHome(tmp_path / "deceived")
        with pytest.raises(IdentityError):
            join_as_site(home, invitation.token(), "drawings", 5, lambda _: None)
    assert impostor.called
    assert impostor.heard == b"", "nothing at all was said"
    assert not home.settings.exists()


def test_somebody_stands_between_member_and_registry(town: Town, rossi: Person, tmp_path: Path) -> None:
    mallory = member(town, "mallory-between")
    with Impostor(mallory.card, tmp_path) as impostor, channel_to(town, impostor.port, rossi.card) as channel:
        assert refusal(lambda: raw(channel, GET_ROSTER, b"secret")).code is grpc.StatusCode.UNAVAILABLE
    assert impostor.called
    assert impostor.heard == b""


# --- garbage ---


@pytest.fixture(scope="module")
def open_to_all(town: Town, operator: Person) -> Iterator[dict[str, grpc.Channel]]:
    """Both ports without a limit of calls, and a connection to each."""
    with ExitStack() as stack:
        door, registry = (stack.enter_context(port(town, LIFTED)) for port in (a_door, a_registry))
        yield {
            "Door": stack.enter_context(channel_to(town, door)),
            "Registry": stack.enter_context(channel_to(town, registry, operator.card)),
        }


@pytest.fixture(scope="module")
def secret_one(town: Town) -> Invitation:
    return invited(town, "fuzzed")


@pytest.fixture(scope="module")
def honest_messages(town: Town, operator: Person, secret_one: Invitation) -> dict[str, bytes]:
    """A message of each call that is whole, to be changed; none that would do harm to the others in this house."""
    keys = MemberKeys.generate(secret_one.spiffe_id)
    after = MemberKeys.generate(operator.id)
    csr, signature = make_renewal(operator.keys)
    rotation = rotate(operator.keys.identity, after.identity, serial=9, now_ms=0).signed
    decision = pb.DecideCall(role="site", name="nobody", reason="none")
    messages = {
        "Join": asking(secret_one, keys), "JoinStatus": how_it_stands(keys), "Bring": asking(secret_one, keys),
        "GetRoster": pb.GetRosterCall(known_version=3), "Renew": pb.RenewCall(csr=csr, signature=signature),
        "Rotate": pb.RotateCall(rotation=rotation, csr=make_renewal(after)[0], signature=make_renewal(after)[1]),
        "Invite": pb.InviteCall(role="auditor", name="fuzz", ttl_s=60),
        "Approve": decision, "Deny": decision, "Revoke": decision, "Reinstate": decision,
    }  # fmt: skip
    return {name: message.SerializeToString() for name, message in messages.items()}


@pytest.mark.parametrize("call", [*DOOR_CALLS, *REGISTRY_CALLS])
def test_garbage_on_every_call(
    call: str,
    open_to_all: dict[str, grpc.Channel],
    honest_messages: dict[str, bytes],
    secret_one: Invitation,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, service, name = call.replace("/bottega.v1.", "/").split("/")
    whole = honest_messages.get(name, pb.RunCall(run="20260101-000000-abcd").SerializeToString())

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.one_of(st.binary(max_size=600), changed(whole)))
    def send(message: bytes) -> None:
        assert ended(open_to_all[service], call, message) in {
            grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
        }  # fmt: skip

    send()
    secret = secret_one.secret
    kept = (secret.hex(), base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode().rstrip("="))
    assert not any(form in caplog.text for form in (*kept, repr(secret)[2:-1], secret_one.token()))
    assert "Traceback" not in caplog.text


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """Change a message a little: bytes replaced, cut out, doubled or put in, or its end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        data[at : at + length] = draw(
            st.sampled_from([b"", bytes(data[at : at + length]) * 2, draw(st.binary(max_size=8))])
        )
    return bytes(data)


def test_garbage_for_every_parser() -> None:
    """A small part of what ``python -m tests.attacks.fuzz`` tries."""
    tally = fuzz(4000, seed=1)
    assert [(name, data.hex(), repr(bug)) for name, data, bug in tally.bugs] == []
    assert tally.inputs == 4000
    assert len(tally.refusals) >= 8, "a parser was left out"


def test_the_roster_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be checked is refused, and no path of the server's is told."""
    with a_town(tmp_path) as town:
        alone = member(town, "alone")
        whole = town.home.roster.read_bytes()
        town.home.roster.write_bytes(whole[:-1])
        with registry_for(town, alone.card) as registry:
            error = refusal(lambda: registry.GetRoster(pb.GetRosterCall()))
            assert error == (grpc.StatusCode.INTERNAL, "the server cannot tell whether you may do this")
            town.home.roster.write_bytes(whole)
            assert registry.GetRoster(pb.GetRosterCall()).roster
    assert "whether '/bottega.v1.Registry/GetRoster' may be called cannot be told" in caplog.text
    caplog.clear()  # this one may say where it broke
