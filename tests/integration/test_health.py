"""The doctors of a server and of a site: what is sound is found sound, and each fault says how to mend it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import format_datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from client.health import site_checks
from common.checkup import Check, Finding, Grade, examine
from common.errors import BottegaError
from common.paths import ServerHome, SiteHome
from common.proto import registry_pb2 as pb
from deploy.studios import make_studios
from security.authority import Authority, certified_id, create_authority, load_certificate, save_certificate
from security.calling import registry
from security.grpc_tls import server_credentials
from security.https_tls import server_context
from security.identity import Identity
from security.key_folder import open_key_folder
from security.keys import create_tls_key, pkcs8_pem
from security.names import Role, SpiffeId
from server.applicants import Applicants
from server.founding import found
from server.health import server_checks, server_status
from server.house import TLS_KEY, open_house
from server.metrics import Metrics
from server.registry import serve_registry
from server.settings import ServerSettings
from server.store import Store, Verdict
from tests.integration.town import FEDERATION, Town, a_town, keys_of

HOUR = dt.timedelta(hours=1)
LOCAL = ipaddress.ip_address("127.0.0.1")


def look(checks: list[tuple[str, Check]], *names: str) -> list[Finding]:
    """Make the checks of these names; all of them when none is named."""
    return examine([one for one in checks if not names or one[0] in names])


def only_fault(findings: list[Finding], name: str) -> Finding:
    """Return the one finding that failed."""
    failed = [finding for finding in findings if finding.grade is Grade.FAIL]
    assert [finding.name for finding in failed] == [name], findings
    assert failed[0].mend
    return failed[0]


def everything_in(folder: Path) -> dict[Path, bytes]:
    return {
        file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and not file.suffix.startswith(".db-")
    }


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> ServerHome:
    home = ServerHome(tmp_path_factory.mktemp("founded") / "server")
    settings = ServerSettings(
        federation="health.test", host="127.0.0.1",
        fleet_port=0, registry_port=0, door_port=0, control_port=0, metrics_port=0,
    )  # fmt: skip
    found(home, settings, ["127.0.0.1"])
    with Store(home.database) as store, Applicants(home.database):
        store.start_run("r1", b"an order")
        for number in range(1, 60):
            store.open_round("r1", number, "train", 2)
            store.record("r1", number, Verdict("rossi", True, 0, "admitted"), {"held_out_loss": 0.1})
            store.close_round("r1", number, "aggregated", "d" * 64)
    return home


@pytest.fixture
def home(founded: ServerHome, tmp_path: Path) -> ServerHome:
    """A sound home of a server, to be broken."""
    shutil.copytree(founded.root, tmp_path / "server")
    return ServerHome(tmp_path / "server")


def reissued(home: ServerHome, authority: Authority, lifetime: dt.timedelta) -> None:
    old = load_certificate(home.certificate)
    key = open_house(home).tls_key.public_key()
    save_certificate(home.certificate, authority.issue(certified_id(old), key, (), [LOCAL], lifetime))


def test_a_sound_server_that_does_not_run_is_found_sound_and_nothing_is_changed(home: ServerHome) -> None:
    before = everything_in(home.root)
    findings = look(server_checks(home))
    assert [f for f in findings if f.grade is Grade.FAIL] == []
    assert [f.name for f in findings if f.grade is Grade.WARN] == ["up"]
    assert {"settings", "permissions", "keys", "authority", "certificate", "name", "roster", "store", "clock"} <= {
        f.name for f in findings
    }
    status = server_status(home)
    assert (status["up"], status["since"], status["ports"]) == (False, None, {})
    assert status["members"] == {"operator": {"active": 1}}
    assert status["runs"] == {"running": 1}
    assert status["last_runs"] == [{"run": "r1", "status": "running"}]
    assert everything_in(home.root) == before


def test_no_server_at_all(tmp_path: Path) -> None:
    findings = look(server_checks(ServerHome(tmp_path / "nothing")), "settings", "keys", "certificate", "roster")
    assert [f.grade for f in findings] == [Grade.FAIL] * 4
    with pytest.raises(BottegaError, match="there is no federation server in this folder"):
        server_status(ServerHome(tmp_path / "nothing"))


def broken_settings(home: ServerHome) -> None:
    home.settings.write_text(home.settings.read_text().replace("fleet_port", "fleet_prot"))


def open_key(home: ServerHome) -> None:
    (home.keys / TLS_KEY).chmod(0o644)


def open_folder(home: ServerHome) -> None:
    home.keys.chmod(0o755)


def lost_key(home: ServerHome) -> None:
    (home.keys / "authority.key").unlink()


def another_key(home: ServerHome) -> None:
    (home.keys / TLS_KEY).unlink()
    create_tls_key(open_key_folder(home), TLS_KEY)


def expired(home: ServerHome) -> None:
    reissued(home, Authority.load(open_key_folder(home)), dt.timedelta(milliseconds=1))


def another_authority(home: ServerHome) -> None:
    reissued(home, create_authority("health.test"), HOUR * 1000)


def another_name(home: ServerHome) -> None:
    home.settings.write_text(
        home.settings.read_text().replace('reached_by = "127.0.0.1"', 'reached_by = "fed.example"')
    )


def changed_roster(home: ServerHome) -> None:
    signed = bytearray(home.roster.read_bytes())
    signed[len(signed) // 2] ^= 1
    home.roster.write_bytes(bytes(signed))


def late_roster(home: ServerHome) -> None:
    newcomer = Identity.generate(SpiffeId("health.test", Role.OPERATOR, "late")).peer
    late = int((dt.datetime.now(dt.UTC) + HOUR).timestamp() * 1000)
    open_house(home).publish(lambda roster: roster.with_member(newcomer, b"", late))


def torn_page(home: ServerHome) -> None:
    for rest in ("bottega.db-wal", "bottega.db-shm"):
        (home.root / rest).unlink(missing_ok=True)
    page = 4096
    with home.database.open("r+b") as file:
        for number in range(3, home.database.stat().st_size // page):
            file.seek(number * page)
            file.write(b"\xff" * 64)


@pytest.mark.parametrize(
    ("fault", "names", "name", "found", "mend"),
    [
        (broken_settings, ("settings",), "settings", "'fleet_prot' is not a setting; expected 'fleet_port'", "docs"),
        (open_key, ("permissions",), "permissions", "tls.key (mode 0644)", "chmod 600"),
        (open_folder, ("permissions",), "permissions", "keys (mode 0755)", "chmod 700"),
        (lost_key, ("keys",), "keys", "authority.key", "backup"),
        (another_key, ("keys",), "keys", "the TLS key is not the certificate's", "backup"),
        (expired, (), "certificate", "it ran out at", "bottega server start"),
        (another_authority, (), "certificate", "not issued by the federation's authority", "bottega server start"),
        (another_name, (), "name", "told fed.example", "reached_by"),
        (changed_roster, ("roster",), "roster", "", "backup"),
        (late_roster, (), "clock", "the roster is from 3", "time server"),
        (torn_page, ("store",), "store", "", "backup"),
    ],
)  # fmt: skip
def test_each_fault_of_a_server_is_found_alone_and_says_how_to_mend_it(
    home: ServerHome, fault: Callable[[ServerHome], None], names: tuple[str, ...], name: str, found: str, mend: str
) -> None:
    fault(home)
    failed = only_fault(look(server_checks(home), *names), name)
    assert found in failed.found
    assert mend in failed.mend


def test_a_certificate_that_is_due_is_doubtful(home: ServerHome) -> None:
    reissued(home, Authority.load(open_key_folder(home)), dt.timedelta(minutes=1))  # it began five minutes ago
    (finding,) = look(server_checks(home), "certificate")
    assert finding.grade is Grade.WARN
    assert "a new one is due" in finding.found


def test_a_port_that_something_else_has_is_found_before_the_start(home: ServerHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        home.settings.write_text(home.settings.read_text().replace("registry_port = 0", f"registry_port = {port}"))
        failed = only_fault(look(server_checks(home), "ports"), f"port {port}")
    assert "registry could not listen on 127.0.0.1" in failed.found
    assert not any(f.grade is Grade.FAIL for f in look(server_checks(home), "ports"))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with a_town(tmp_path_factory.mktemp("town")) as town:
        yield town


@pytest.fixture(scope="module")
def member(town: Town) -> SiteHome:
    home = town.site("rossi")
    (studio,) = make_studios(town.root / "studios", 1, seed=0, each=90)
    text = home.settings.read_text().replace(f'data = "{town.root}"', f'data = "{studio.folder}"')
    home.settings.write_text(text)
    return home


@pytest.fixture
def site(member: SiteHome, tmp_path: Path) -> SiteHome:
    """A sound home of a site, to be broken."""
    shutil.copytree(member.root, tmp_path / "site")
    return SiteHome(tmp_path / "site")


def at_server(site: SiteHome, address: str) -> None:
    lines = site.settings.read_text().splitlines()
    site.settings.write_text("\n".join(f'server = "{address}"' if x.startswith("server = ") else x for x in lines))


@contextmanager
def answering(home: ServerHome, date: Callable[[], str]) -> Iterator[int]:
    """Listen where a server would, with a certificate, and tell a time over HTTP."""
    context = server_context(open_house(home).tls_key, home.certificate.read_bytes())
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as secured:
                    secured.recv(4096)
                    secured.sendall(f"HTTP/1.1 404 Not Found\r\nDate: {date()}\r\n\r\n".encode())
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def date(ahead: dt.timedelta) -> str:
    return format_datetime(dt.datetime.now(dt.UTC) + ahead, usegmt=True)


def on_time() -> str:
    return date(dt.timedelta(0))


def test_a_sound_site_is_found_sound_and_nothing_is_changed(town: Town, site: SiteHome) -> None:
    with answering(town.home, on_time) as port:
        at_server(site, f"127.0.0.1:{port}")
        before = everything_in(site.root)
        findings = look(site_checks(site))
    assert [f for f in findings if f.grade is Grade.FAIL] == []
    assert {f.name: f.found for f in findings}["membership"].startswith("the registry takes this site as a member")
    assert {f.name: f.grade for f in findings}["clock"] is Grade.OK
    assert [f.name for f in findings if f.grade is Grade.WARN] == ["agent"]
    assert everything_in(site.root) == before


@pytest.mark.parametrize(("hours", "words"), [(1, "behind the server's clock"), (-1, "ahead of the server's clock")])
def test_a_clock_that_differs_from_the_servers_is_found(town: Town, site: SiteHome, hours: int, words: str) -> None:
    with answering(town.home, lambda: date(hours * HOUR)) as port:
        at_server(site, f"127.0.0.1:{port}")
        failed = only_fault(look(site_checks(site), "fleet port"), "clock")
    assert words in failed.found
    assert abs(int(failed.found.split()[0]) - 3600) < 60


def test_an_answer_without_a_time_that_can_be_read_is_no_fault(town: Town, site: SiteHome) -> None:
    with answering(town.home, lambda: "yesterday") as port:
        at_server(site, f"127.0.0.1:{port}")
        assert [f.grade for f in look(site_checks(site), "fleet port")] == [Grade.OK]


def test_a_server_under_another_name_is_found(town: Town, site: SiteHome) -> None:
    with answering(town.home, on_time) as port:
        at_server(site, f"localhost:{port}")
        failed = only_fault(look(site_checks(site), "fleet port"), "fleet port")
    assert "shows a certificate that does not do" in failed.found
    assert "bottega server doctor" in failed.mend


def test_somebody_in_the_servers_place_is_found(home: ServerHome, site: SiteHome) -> None:
    with answering(home, on_time) as port:
        at_server(site, f"127.0.0.1:{port}")
        assert "shows a certificate" in only_fault(look(site_checks(site), "fleet port"), "fleet port").found


def test_a_port_where_nobody_or_something_else_listens_is_found(site: SiteHome) -> None:
    at_server(site, "127.0.0.1:1")
    assert "cannot be reached" in only_fault(look(site_checks(site), "fleet port"), "fleet port").found

    def speak_ssh(listener: socket.socket) -> None:
        with listener.accept()[0] as caller:
            caller.sendall(b"SSH-2.0-x\r\n")

    with socket.create_server(("127.0.0.1", 0)) as plain:
        threading.Thread(target=speak_ssh, args=[plain], daemon=True).start()
        at_server(site, f"127.0.0.1:{plain.getsockname()[1]}")
        assert "does not speak TLS 1.3" in only_fault(look(site_checks(site), "fleet port"), "fleet port").found


def test_a_registry_that_is_away_and_one_that_refuses_the_site_are_told_apart(town: Town) -> None:
    home = town.site("bianchi")
    town.close()
    assert "cannot be reached" in only_fault(look(site_checks(home), "registry"), "registry").found
    town.open()
    town.desk.revoke(Role.SITE, "bianchi", "left")
    assert "is not an active member" in only_fault(look(site_checks(home), "registry"), "registry").found


def ran_out(town: Town, site: SiteHome, lifetime: dt.timedelta) -> None:
    keys = keys_of(site, "rossi")
    certificate = Authority.load(open_key_folder(town.home)).issue(keys.id, keys.tls.public_key(), lifetime=lifetime)
    save_certificate(site.certificate, certificate)


def test_a_sites_certificate_that_ran_out_is_due_or_is_anothers_is_found(town: Town, site: SiteHome) -> None:
    ran_out(town, site, dt.timedelta(milliseconds=1))
    assert "it ran out" in only_fault(look(site_checks(site), "certificate"), "certificate").found
    ran_out(town, site, dt.timedelta(minutes=1))
    assert [f.grade for f in look(site_checks(site), "certificate")] == [Grade.WARN]
    save_certificate(
        site.certificate,
        Authority.load(open_key_folder(town.home)).issue(
            SpiffeId(FEDERATION, Role.SITE, "rossi"), ec.generate_private_key(ec.SECP256R1()).public_key()
        ),
    )
    failed = only_fault(look(site_checks(site), "certificate"), "certificate")
    assert "another key" in failed.found
    assert "bottega site request rossi" in failed.mend


def test_a_key_that_others_may_read_and_a_changed_roster_are_found(site: SiteHome) -> None:
    site.supernode_key.chmod(0o640)
    assert "supernode (mode 0640)" in only_fault(look(site_checks(site), "permissions"), "permissions").found
    assert "others on this machine may read" in only_fault(look(site_checks(site), "keys"), "keys").found
    site.roster.write_bytes(site.roster.read_bytes()[:-1])
    site.supernode_key.chmod(0o600)
    only_fault(look(site_checks(site), "roster"), "roster")


def test_of_drawings_nothing_is_told_but_how_many(site: SiteHome, tmp_path: Path) -> None:
    folder = tmp_path / "drawings"
    folder.mkdir()
    (folder / "a-secret-boat.png").write_bytes(b"no picture")
    (folder / "a-secret-boat.txt").write_text("a secret caption")
    lines = site.settings.read_text().splitlines()
    site.settings.write_text("\n".join(f'data = "{folder}"' if x.startswith("data = ") else x for x in lines))
    failed = only_fault(look(site_checks(site), "drawings"), "drawings")
    assert "secret" not in failed.found + failed.mend
    shutil.rmtree(folder)
    assert "does not exist" in only_fault(look(site_checks(site), "drawings"), "drawings").found


def test_a_base_that_cannot_be_loaded_and_a_home_without_a_site_are_found(site: SiteHome, tmp_path: Path) -> None:
    others = [line for line in site.settings.read_text().splitlines() if not line.startswith("base = ")]
    site.settings.write_text("\n".join([f'base = "{tmp_path}/none"', *others]))
    only_fault(look(site_checks(site), "base"), "base")
    failed = only_fault(look(site_checks(SiteHome(tmp_path / "nothing")), "settings"), "settings")
    assert "there is no site in this folder" in failed.found


def test_calls_of_members_are_counted_by_name_and_outcome(town: Town, member: SiteHome) -> None:
    house = open_house(town.home)
    metrics = Metrics(house, lambda: "127.0.0.1:1")
    key, certificate = pkcs8_pem(open_house(town.home).tls_key), town.home.certificate.read_bytes()
    credentials = server_credentials(key, certificate, town.home.authority_certificate.read_bytes())
    server, port = serve_registry(town.desk, "127.0.0.1:0", credentials, seen=[metrics.grpc("registry")])
    try:
        with registry(member, keys_of(member, "rossi"), f"127.0.0.1:{port}") as stub:
            for _ in range(2):
                stub.GetRoster(pb.GetRosterCall(known_version=1), timeout=20)
            with pytest.raises(grpc.RpcError):
                stub.ListMembers(pb.ListMembersCall(), timeout=20)
            with pytest.raises(grpc.RpcError):
                stub.StopRun(pb.RunCall(run="x"), timeout=20)
    finally:
        server.stop(1).wait()
    counted = {
        (sample.labels["call"], sample.labels["outcome"]): sample.value
        for family in metrics.calls.collect()
        for sample in family.samples
        if sample.name == "bottega_calls_total"
    }
    assert counted == {
        ("GetRoster", "OK"): 2, ("ListMembers", "PERMISSION_DENIED"): 1, ("StopRun", "PERMISSION_DENIED"): 1,
    }  # fmt: skip
