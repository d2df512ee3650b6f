"""What the registry and the door promise: who may call what, and how a stranger becomes a member on the wire."""

from __future__ import annotations

import datetime as dt
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from client.joining import join_as_site
from common.errors import BottegaError, IdentityError, ProcessError
from common.paths import SiteHome
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security import renewal
from security.authority import certified_id
from security.csr import make_csr
from security.enrolment import Invitation, MemberKeys, make_request
from security.names import Role, SpiffeId
from security.records import joined
from security.renewal import make_renewal
from security.roster import open_roster
from server import doorkeeper
from server.doorkeeper import Doorkeeper
from server.house import open_house
from server.opening import desk_of
from server.ports import free_port
from server.registry import ALLOWED, serve_door
from tests.integration.registry_federation import (
    LIFTED,
    REGISTRY_CALLS,
    Card,
    Person,
    a_door,
    a_registry,
    asking,
    by_the_authority,
    card_of,
    channel_to,
    door_at,
    door_credentials,
    how_it_stands,
    invited,
    member,
    named,
    now_ms,
    opened,
    raw,
    refusal,
    registry_for,
    until,
)
from tests.integration.town import Town, a_town

CALLERS = ["site", "operator", "auditor", "server"]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with a_town(tmp_path_factory.mktemp("town")) as town:
        yield town


@pytest.fixture(scope="module")
def callers(town: Town) -> dict[str, Card]:
    """One of each role, each in good standing; the server's own name with a certificate that may call."""
    cards = {role.value: member(town, f"the-{role}", role).card for role in set(Role) - {Role.SERVER}}
    server = open_house(town.home).identity.id
    return {**cards, "server": by_the_authority(town, str(server))}


@pytest.fixture(scope="module")
def operator(town: Town) -> Person:
    return member(town, "anna", Role.OPERATOR)


@pytest.fixture
def door(town: Town) -> Iterator[int]:
    """A door where nobody has called yet."""
    with a_door(town) as port:
        yield port


# --- who may call what ---


def test_every_call_of_the_service_has_a_row_in_the_table_and_the_table_no_other() -> None:
    assert sorted(ALLOWED) == sorted(REGISTRY_CALLS)


@pytest.mark.parametrize("call", REGISTRY_CALLS)
@pytest.mark.parametrize("role", CALLERS)
def test_a_role_may_make_the_calls_of_the_table_and_no_others(
    role: str, call: str, town: Town, callers: dict[str, Card], caplog: pytest.LogCaptureFixture
) -> None:
    with channel_to(town, town.port, callers[role]) as channel:
        try:
            raw(channel, call, b"")
            code, words = grpc.StatusCode.OK, ""
        except grpc.RpcError as error:
            code, words = error.code(), error.details() or ""
    if role in ALLOWED.get(call, frozenset()):
        # Let in: the empty message then asks for nothing, or for something that cannot be done.
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION}, words
    else:
        assert (code, words) == (grpc.StatusCode.PERMISSION_DENIED, f"a {role} may not do this")
        assert f"refused: '{call}', called by spiffe://members.test/{role}/" in caplog.text


@pytest.mark.parametrize("role", CALLERS)
def test_a_call_that_has_no_row_is_refused_to_everybody(
    role: str, town: Town, callers: dict[str, Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if somebody had added GetRoster to the service and forgotten the table."""
    rest = {call: roles for call, roles in ALLOWED.items() if not call.endswith("/GetRoster")}
    monkeypatch.setattr("server.registry.ALLOWED", rest)
    with a_registry(town) as port, channel_to(town, port, callers[role]) as channel:
        error = refusal(lambda: raw(channel, "/bottega.v1.Registry/GetRoster", b""))
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


# --- members ---


def test_the_roster_is_sent_to_who_does_not_have_it(town: Town, operator: Person) -> None:
    server = open_house(town.home).identity.peer
    with registry_for(town, operator.card) as registry:
        roster = open_roster(registry.GetRoster(pb.GetRosterCall()).roster, server)
        assert operator.id in roster
        assert registry.GetRoster(pb.GetRosterCall(known_version=roster.version)).roster == b""
        assert open_roster(registry.GetRoster(pb.GetRosterCall(known_version=2**63)).roster, server) == roster


def test_a_renewed_certificate_opens_the_registry_in_the_same_name(town: Town) -> None:
    rossi = member(town, "rossi")
    csr, signature = make_renewal(rossi.keys)
    with registry_for(town, rossi.card) as registry:
        answer = registry.Renew(pb.RenewCall(csr=csr, signature=signature))
    certificate = x509.load_der_x509_certificate(answer.certificate)
    assert certified_id(certificate) == rossi.id
    assert certificate.public_key() == rossi.keys.tls.public_key()
    with registry_for(town, card_of(rossi.keys, certificate)) as registry:
        assert registry.GetRoster(pb.GetRosterCall()).roster


def test_rosters_are_not_handed_out_as_fast_as_one_may_call(town: Town) -> None:
    """An answer that nobody reads stays in the server's memory, and a roster is long."""
    greedy = member(town, "greedy")
    with registry_for(town, greedy.card) as registry:
        version = open_roster(
            registry.GetRoster(pb.GetRosterCall()).roster, open_house(town.home).identity.peer
        ).version
        error = refusal(lambda: [registry.GetRoster(pb.GetRosterCall()) for _ in range(40)])
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert error.words == "too many rosters were asked for. Wait a little, then try again."
        assert registry.GetRoster(pb.GetRosterCall(known_version=version)).roster == b""


@pytest.mark.parametrize("wrong", ["another's name", "another's key", "a signature by the CSR's key alone"])
def test_a_renewal_is_for_ones_own_name_and_signed_by_ones_own_keys(
    wrong: str, town: Town, operator: Person, callers: dict[str, Card]
) -> None:
    stranger = MemberKeys.generate(operator.id)
    if wrong == "another's name":
        csr = make_csr(named("the-operator", Role.OPERATOR), operator.keys.tls)
    elif wrong == "another's key":  # a CSR for the stranger's key that the stranger's key did not sign
        csr = under_anothers_signature(operator, stranger)
    else:
        csr = make_csr(operator.id, stranger.tls)
    signing = (stranger if wrong.startswith("a signature") else operator.keys).identity.signing
    call = pb.RenewCall(csr=csr, signature=signing.sign(joined(renewal._DOMAIN, csr)))
    with registry_for(town, operator.card) as registry:
        error = refusal(lambda: registry.Renew(call))
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert registry.GetRoster(pb.GetRosterCall()).roster
    assert {
        "another's name": "names",
        "another's key": "not signed by the TLS key in it",
        "a signature by the CSR's key alone": "signed by the key that the roster has",
    }[wrong] in error.words


def under_anothers_signature(holder: Person, other: MemberKeys) -> bytes:
    """Return a CSR that names the other's key under the holder's signature: the two have keys of one length."""
    csr, public = make_csr(holder.id, holder.keys.tls), tls_point(holder.keys)
    changed = csr.replace(public, tls_point(other))
    assert changed != csr
    return changed


def tls_point(keys: MemberKeys) -> bytes:
    numbers = keys.tls.public_key().public_numbers()
    return b"\x04" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


# --- operators, over the wire ---


def test_an_operator_invites_a_newcomer_asks_and_the_grant_opens_at_home(
    town: Town, operator: Person, door: int
) -> None:
    with registry_for(town, operator.card) as registry, door_at(town, door) as newcomers:
        token = registry.Invite(pb.InviteCall(role="site", name="verdi", ttl_s=60)).token
        invitation = Invitation.parse(token)
        assert invitation.spiffe_id == named("verdi")
        keys = MemberKeys.generate(invitation.spiffe_id)
        assert newcomers.Join(asking(invitation, keys)).state == pb.JOIN_STATE_WAITING
        status = newcomers.JoinStatus(how_it_stands(keys))
        assert (status.state, status.grant) == (pb.JOIN_STATE_WAITING, b"")
        [row] = [row for row in registry.ListMembers(pb.ListMembersCall()).members if row.spiffe_id == str(keys.id)]
        assert (row.status, row.fingerprint) == ("waiting", keys.fingerprint.digest)
        assert registry.Approve(pb.DecideCall(role="site", name="verdi")).status == "approved"
        status = newcomers.JoinStatus(how_it_stands(keys))
        assert status.state == pb.JOIN_STATE_APPROVED
    grant = opened(town, keys, status.grant)
    with registry_for(town, card_of(keys, grant.certificate)) as registry:
        assert registry.GetRoster(pb.GetRosterCall()).roster


def test_nobody_but_the_newcomer_can_open_the_grant(town: Town, door: int) -> None:
    invitation = invited(town, "sealed", auto=True)
    keys = MemberKeys.generate(invitation.spiffe_id)
    with door_at(town, door) as newcomers:
        assert newcomers.Join(asking(invitation, keys)).state == pb.JOIN_STATE_APPROVED
        grant = newcomers.JoinStatus(how_it_stands(keys)).grant  # anybody who knows name and fingerprint gets this
    with pytest.raises(IdentityError):
        opened(town, MemberKeys.generate(keys.id), grant)
    assert opened(town, keys, grant).member == keys.public


def test_who_was_denied_is_told_why_and_is_no_member(town: Town, operator: Person, door: int) -> None:
    invitation = invited(town, "denied")
    keys = MemberKeys.generate(invitation.spiffe_id)
    with registry_for(town, operator.card) as registry, door_at(town, door) as newcomers:
        newcomers.Join(asking(invitation, keys))
        registry.Deny(pb.DecideCall(role="site", name="denied", reason="the words differ"))
        answer = newcomers.JoinStatus(how_it_stands(keys))
        assert (answer.state, answer.reason) == (pb.JOIN_STATE_DENIED, "the words differ")
        error = refusal(lambda: registry.Approve(pb.DecideCall(role="site", name="denied")))
        assert "does not wait for a decision" in error.words
    assert keys.id not in open_house(town.home).roster


def test_who_was_revoked_is_out_at_the_next_call_and_told_so_at_the_door(
    town: Town, operator: Person, door: int
) -> None:
    leaver = member(town, "leaver")
    with registry_for(town, operator.card) as registry, registry_for(town, leaver.card) as theirs:
        assert theirs.GetRoster(pb.GetRosterCall()).roster
        registry.Revoke(pb.DecideCall(role="site", name="leaver", reason="left"))
        error = refusal(lambda: theirs.GetRoster(pb.GetRosterCall()))
        assert error.code is grpc.StatusCode.PERMISSION_DENIED
    with door_at(town, door) as newcomers:
        answer = newcomers.JoinStatus(how_it_stands(leaver.keys))
    assert (answer.state, answer.reason, answer.grant) == (pb.JOIN_STATE_REVOKED, "left", b"")


def test_approving_twice_and_revoking_twice_change_nothing(town: Town, operator: Person, door: int) -> None:
    invitation = invited(town, "twice")
    keys = MemberKeys.generate(invitation.spiffe_id)
    call = pb.DecideCall(role="site", name="twice", reason="the first reason")
    with registry_for(town, operator.card) as registry, door_at(town, door) as newcomers:
        newcomers.Join(asking(invitation, keys))
        first, version = registry.Approve(call), open_house(town.home).roster.version
        assert registry.Approve(call) == first
        assert open_house(town.home).roster.version == version
        registry.Revoke(call)
        version = open_house(town.home).roster.version
        registry.Revoke(pb.DecideCall(role="site", name="twice", reason="another reason"))
        assert open_house(town.home).roster.version == version
        [row] = [row for row in registry.ListMembers(pb.ListMembersCall()).members if row.spiffe_id == str(keys.id)]
    assert (row.status, row.reason) == ("revoked", "the first reason")


@pytest.mark.parametrize("role", ["server", "", "king", "site\n"])
def test_nobody_is_invited_in_a_role_that_is_none(role: str, town: Town, operator: Person) -> None:
    with registry_for(town, operator.card) as registry:
        error = refusal(lambda: registry.Invite(pb.InviteCall(role=role, name="x", ttl_s=60)))
    assert "no role to be invited in" in error.words


# --- newcomers ---


def test_two_newcomers_at_once_both_come_in(town: Town, operator: Person, door: int) -> None:
    names = ("duo-a", "duo-b")
    both = [(invited(town, name, auto=True), MemberKeys.generate(named(name))) for name in names]
    with ExitStack() as doors, ThreadPoolExecutor(2) as at_once:
        stubs = [doors.enter_context(door_at(town, door)) for _ in both]
        answers = list(at_once.map(lambda stub, who: stub.Join(asking(*who)), stubs, both))
    for (_, keys), answer in zip(both, answers, strict=True):
        assert opened(town, keys, answer.grant).member.id == keys.id
    roster = open_house(town.home).roster
    assert all(named(name) in roster for name in names)


def test_of_many_who_come_at_once_with_one_token_one_comes_in(town: Town) -> None:
    invitation = invited(town, "prize")
    rivals = [MemberKeys.generate(invitation.spiffe_id) for _ in range(8)]
    with a_door(town, LIFTED) as door, ExitStack() as doors, ThreadPoolExecutor(8) as at_once:
        stubs = [doors.enter_context(door_at(town, door)) for _ in rivals]

        def try_it(stub: rpc.DoorStub, keys: MemberKeys) -> str:
            while True:
                try:
                    stub.Join(asking(invitation, keys))
                except grpc.RpcError as error:
                    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:  # few calls of one address are heard at once
                        continue
                    return str(error.details())
                return ""

        said = list(at_once.map(try_it, stubs, rivals))
    assert said.count("") == 1
    assert all("used before, by other keys" in words for words in said if words)
    winner = rivals[said.index("")]
    assert town.desk.status(winner.id, winner.fingerprint.digest).status == "waiting"


def test_a_request_for_another_federation_is_refused(town: Town, door: int) -> None:
    here = invited(town, "faraway")
    elsewhere = SpiffeId("other.town", Role.SITE, "faraway")
    foreign = Invitation(elsewhere, here.address, here.authority, here.id, here.secret, here.expires_at_ms)
    with door_at(town, door) as newcomers:
        error = refusal(lambda: newcomers.Join(asking(foreign, MemberKeys.generate(elsewhere))))
    assert "for another federation" in error.words


def test_who_waits_is_not_forgotten_when_the_server_starts_again(tmp_path: Path) -> None:
    with a_town(tmp_path) as town:
        invitation = invited(town, "patient")
        keys = MemberKeys.generate(invitation.spiffe_id)
        with door_at(town, town.door) as newcomers:
            newcomers.Join(asking(invitation, keys))
        town.close()
        town.desk = desk_of(open_house(town.home), {})
        town.open()
        with door_at(town, town.door) as newcomers:
            assert newcomers.JoinStatus(how_it_stands(keys)).state == pb.JOIN_STATE_WAITING
            assert newcomers.Join(asking(invitation, keys)).state == pb.JOIN_STATE_WAITING
            town.desk.approve(Role.SITE, "patient")
            assert opened(town, keys, newcomers.JoinStatus(how_it_stands(keys)).grant).member.id == keys.id


# --- the doorkeeper ---


def test_the_door_listens_only_while_somebody_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorkeeper, "LOOK_S", 0.02)
    caplog.set_level(logging.INFO)
    with a_town(tmp_path) as town:
        port, looked = free_port("127.0.0.1"), []

        def expected() -> bool:
            looked.append(True)
            return town.desk.expects_somebody()

        address, credentials = f"127.0.0.1:{port}", door_credentials(town)
        with Doorkeeper(expected, lambda: serve_door(town.desk, address, credentials)[0]):
            until(lambda: len(looked) > 2, "the doorkeeper never looked")
            assert not listens(port)
            invitation = invited(town, "awaited")
            until(lambda: listens(port), "the door never opened")
            keys = MemberKeys.generate(invitation.spiffe_id)
            with door_at(town, port) as newcomers:
                assert newcomers.Join(asking(invitation, keys)).state == pb.JOIN_STATE_WAITING
            town.desk.deny(Role.SITE, "awaited", "no")
            assert listens(port), "it stays open while the answer can be fetched"
            monkeypatch.setattr("server.applicants.FETCH_MS", 0)
            until(lambda: not listens(port), "the door never closed")
            invited(town, "another")
            until(lambda: listens(port), "the door never opened again")
        assert not listens(port), "the door ends with its keeper"
    said = [record.message for record in caplog.records if record.name == "bottega.door"]
    assert [line.split(":")[0] for line in said] == [
        "the join port is open", "the join port is closed", "the join port is open",
    ]  # fmt: skip


@pytest.mark.parametrize("problem", [ProcessError("the port is taken"), OSError("out of files"), RuntimeError("odd")])
def test_a_door_that_cannot_be_opened_is_tried_again(
    problem: Exception, town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(doorkeeper, "LOOK_S", 0.02)
    tries: list[int] = []

    def open_door() -> grpc.Server:
        tries.append(1)
        if len(tries) == 1:
            raise problem
        return serve_door(town.desk, "127.0.0.1:0", door_credentials(town))[0]

    with Doorkeeper(lambda: True, open_door):
        until(lambda: len(tries) == 2, "it was not tried again")
    assert "trying again" in caplog.text


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_port_that_is_taken_is_said(town: Town) -> None:
    with pytest.raises(ProcessError, match=rf"127.0.0.1:{town.door} cannot be taken"):
        serve_door(town.desk, f"127.0.0.1:{town.door}", door_credentials(town))


def test_a_door_that_answers_when_nobody_is_expected_refuses(tmp_path: Path) -> None:
    with a_town(tmp_path) as town, door_at(town, town.door) as newcomers:  # this one has no keeper
        error = refusal(lambda: newcomers.JoinStatus(pb.JoinStatusCall()))
    assert (error.code, error.words) == (grpc.StatusCode.UNAVAILABLE, "nobody is expected at this door")


def test_the_client_and_the_door_agree_from_token_to_home(tmp_path: Path) -> None:
    with a_town(tmp_path) as town, ThreadPoolExecutor(2) as at_once:
        homes = [SiteHome(tmp_path / name) for name in ("left", "right")]
        tokens = [invited(town, home.root.name, ttl=dt.timedelta(minutes=1)).token() for home in homes]
        joining = [
            at_once.submit(join_as_site, home, token, "drawings", 30, lambda _: None)
            for home, token in zip(homes, tokens, strict=True)
        ]
        until(lambda: len(town.desk.applicants()) == 2, "they never asked")
        for home in homes:
            town.desk.approve(Role.SITE, home.root.name)
        assert [future.result().name for future in joining] == ["left", "right"]


def test_a_request_that_is_handed_over_needs_no_door(town: Town, operator: Person) -> None:
    keys = MemberKeys.generate(named("by-file"))
    request = make_request(keys, invitation=None, now_ms=now_ms())
    with registry_for(town, operator.card) as registry:
        answer = registry.Bring(pb.JoinCall(request=request))
    assert opened(town, keys, answer.grant).member == keys.public


def test_every_refusal_is_an_error_of_ours_in_words(town: Town, operator: Person) -> None:
    """What happened and what to do next; never the name of a class or of a file of ours."""
    with registry_for(town, operator.card) as registry:
        for call in (
            lambda: registry.Approve(pb.DecideCall(role="site", name="nobody")),
            lambda: registry.Revoke(pb.DecideCall(role="site", name="nobody")),
            lambda: registry.Bring(pb.JoinCall(request=b"garbage")),
            lambda: registry.ShowRun(pb.RunCall(run="nothing")),
        ):
            error = refusal(call)
            assert error.code is grpc.StatusCode.FAILED_PRECONDITION
            assert not any(word in error.words for word in (*(c.__name__ for c in kinds()), ".py", "Traceback"))


def kinds() -> Iterator[type[BottegaError]]:
    waiting = [BottegaError]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()
