"""`bottega audit serve` as a process: who gets in from elsewhere, what it serves, and how it ends."""

from __future__ import annotations

import datetime as dt
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import load_key_and_certificates

from client.browser_key import make_browser_key
from common.errors import IdentityError
from common.paths import MemberHome, ServerHome
from common.settings import RunSettings
from security.authority import Authority, create_authority, save_certificate
from security.enrolment import MemberKeys
from security.files import PUBLIC, replace
from security.key_folder import make_key_folder, open_key_folder
from security.names import Role, SpiffeId
from server.house import House, open_house
from tests.browser.scene import FEDERATION, GOING, Scene, found_scene
from tests.browser.serving import Dashboard, dashboard

NOW_MS = 1_790_000_000_000


@dataclass(frozen=True)
class Somebody:
    """A name with a TLS key and a certificate, as files."""

    id: SpiffeId
    files: tuple[str, str]


def somebody(folder: Path, authority: Authority, role: Role, name: str, life: dt.timedelta | None = None) -> Somebody:
    who, key = SpiffeId(authority.federation, role, name), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(who, key.public_key(), lifetime=life or dt.timedelta(hours=1))
    files = folder / f"{role}-{name}.crt", folder / f"{role}-{name}.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Somebody(who, (str(files[0]), str(files[1])))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    made = found_scene(tmp_path_factory.mktemp("dashboard"))
    made.story.start(GOING, ["bellini"], RunSettings())
    made.write()
    return made


@pytest.fixture(scope="module")
def house(scene: Scene) -> House:
    return open_house(scene.home)


@pytest.fixture(scope="module")
def authority(house: House) -> Authority:
    return Authority.load(house.keys)


@pytest.fixture(scope="module")
def outside(scene: Scene) -> Iterator[Dashboard]:
    with dashboard("--home", str(scene.home.root), "--host", "0.0.0.0") as served:  # noqa: S104 (that is the test)
        yield served


def get(served: Dashboard, home: ServerHome, path: str, who: Somebody | None = None) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(home.authority_certificate))
    if who is not None:
        context.load_cert_chain(*who.files)
    with httpx.Client(verify=context, base_url=_local(served)) as client:
        return client.get(path)


def _local(served: Dashboard) -> str:
    return f"https://localhost:{served.address.rpartition(':')[2]}"


def join(house: House, who: Somebody) -> None:
    keys = MemberKeys.generate(who.id)
    house.publish(lambda roster: roster.with_member(keys.public.peer, b"", NOW_MS))


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OPERATOR])
def test_an_active_auditor_or_operator_reads_from_elsewhere(
    outside: Dashboard, scene: Scene, house: House, authority: Authority, tmp_path: Path, role: Role
) -> None:
    who = somebody(tmp_path, authority, role, f"carla-{role}")
    assert get(outside, scene.home, "/", who).status_code == 403
    join(house, who)
    answer = get(outside, scene.home, "/", who)
    assert answer.status_code == 200
    assert FEDERATION in answer.text
    assert f"You are spiffe://{FEDERATION}/{role}/carla-{role}." in answer.text
    house.publish(lambda roster: roster.with_revocation(who.id, "left", NOW_MS))
    answer = get(outside, scene.home, "/", who)
    assert answer.status_code == 403
    assert "bellini" not in answer.text


def test_a_revocation_holds_on_a_connection_that_is_open(
    outside: Dashboard, scene: Scene, house: House, authority: Authority, tmp_path: Path
) -> None:
    who = somebody(tmp_path, authority, Role.AUDITOR, "dora")
    join(house, who)
    context = ssl.create_default_context(cafile=str(scene.home.authority_certificate))
    context.load_cert_chain(*who.files)
    with httpx.Client(verify=context, base_url=_local(outside)) as client:
        assert client.get("/").status_code == 200
        house.publish(lambda roster: roster.with_revocation(who.id, "left", NOW_MS))
        assert client.get("/").status_code == 403


def test_nobody_gets_in_without_a_certificate_of_the_federation(
    outside: Dashboard, scene: Scene, authority: Authority, tmp_path: Path
) -> None:
    forged = create_authority(FEDERATION)
    for who in (
        None,
        somebody(tmp_path, forged, Role.AUDITOR, "anna"),
        somebody(tmp_path, authority, Role.AUDITOR, "late", dt.timedelta(microseconds=1)),
    ):
        time.sleep(1.1 if who and who.id.name == "late" else 0)
        with pytest.raises(httpx.TransportError):
            get(outside, scene.home, "/", who)


def test_a_site_may_not_read(outside: Dashboard, scene: Scene, authority: Authority, tmp_path: Path) -> None:
    who = somebody(tmp_path, authority, Role.SITE, "bellini")
    answer = get(outside, scene.home, "/ledger/entries/1.json", who)
    assert answer.status_code == 403
    assert "a site may not read these pages" in answer.text


def test_there_is_no_link_from_elsewhere(
    outside: Dashboard, scene: Scene, authority: Authority, tmp_path: Path
) -> None:
    assert outside.link.startswith("https://127.0.0.1:")
    assert "token" not in outside.link
    who = somebody(tmp_path, authority, Role.AUDITOR, "nobody")
    assert get(outside, scene.home, "/login?token=x", who).status_code in {403, 404}


def test_tls_1_2_is_refused(outside: Dashboard, scene: Scene) -> None:
    context = ssl.create_default_context(cafile=str(scene.home.authority_certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = int(outside.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_a_foreign_name_is_not_answered_from_elsewhere(
    outside: Dashboard, scene: Scene, house: House, authority: Authority, tmp_path: Path
) -> None:
    who = somebody(tmp_path, authority, Role.AUDITOR, "elsa")
    join(house, who)
    context = ssl.create_default_context(cafile=str(scene.home.authority_certificate))
    context.load_cert_chain(*who.files)
    with httpx.Client(verify=context, base_url=_local(outside)) as client:
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 421


def test_a_member_makes_a_file_that_a_browser_takes(authority: Authority, tmp_path: Path) -> None:
    home = MemberHome(tmp_path / "member")
    for folder in home.folders:
        folder.mkdir(mode=0o700, parents=True)
    who = SpiffeId(FEDERATION, Role.AUDITOR, "carla")
    keys = MemberKeys.create(make_key_folder(home), who)
    save_certificate(home.certificate, authority.issue(who, keys.tls.public_key()))
    replace(
        home.authority_certificate, [authority.certificate.public_bytes(Encoding.PEM)], error=IdentityError, mode=PUBLIC
    )
    file = tmp_path / "carla.p12"
    made = make_browser_key(home, who, file)
    assert file.stat().st_mode & 0o777 == 0o600
    key, certificate, others = load_key_and_certificates(file.read_bytes(), made.password.encode())
    assert certificate
    assert key
    assert key.public_key() == certificate.public_key() == keys.tls.public_key()
    assert others == [authority.certificate]
    with pytest.raises(ValueError, match="password"):
        load_key_and_certificates(file.read_bytes(), b"another")
    with pytest.raises(IdentityError):
        make_browser_key(home, who, file)
    other = ec.generate_private_key(ec.SECP256R1())
    save_certificate(home.certificate, authority.issue(who, other.public_key()))
    with pytest.raises(IdentityError, match="lets nobody in"):
        make_browser_key(home, who, tmp_path / "other.p12")
    assert open_key_folder(home).holds("tls.key")


# -- the command -------------------------------------------------------------------------------------------------------


def audit(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "deploy.cli", "audit", *words]
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": root}
    )


def test_ctrl_c_ends_it_while_a_page_is_open(scene: Scene) -> None:
    with dashboard("--home", str(scene.home.root)) as served, httpx.Client() as client:
        client.get(served.fresh_link())
        with client.stream("GET", f"{served.address}/events") as events:
            lines = events.iter_lines()
            assert next(lines).startswith("retry:")
            served.process.send_signal(signal.SIGINT)
            begun = time.monotonic()
            for _ in lines:
                pass
        told = served.process.communicate(timeout=20)[1]
        assert served.process.returncode == 0
        assert time.monotonic() - begun < 10
        assert "Traceback" not in told


def test_a_bundle_is_shown_with_no_server_at_all(scene: Scene, tmp_path: Path) -> None:
    file, home = str(tmp_path / "record.zip"), str(tmp_path / "imported")
    assert audit("export", file, "--home", str(scene.home.root)).returncode == 0
    assert audit("import", file, "--home", home).returncode == 0
    for options, words in (
        (["--bundle", file], "Read from an exported bundle"), (["--home", home], "Read from an auditor&#39;s own copy"),
    ):  # fmt: skip
        with dashboard(*options) as served, httpx.Client() as client:
            client.get(served.fresh_link())
            patience = time.monotonic() + 20
            while "The ledger holds." not in (told := client.get(served.address).text):
                assert time.monotonic() < patience
            assert words in told
            assert ("The key is the bundle&#39;s own" in told) is ("--bundle" in options)
            assert GOING in client.get(f"{served.address}/runs").text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--home", "nowhere"], "there is no record in this folder"),
        (["--bundle", "nowhere.zip"], "the bundle cannot be read"),
        (["--home", "nowhere", "--host", "::"], "from elsewhere nobody can be let in to these pages"),
    ],
)
def test_errors_are_sentences(options: list[str], said: str) -> None:
    ended = audit("serve", *options)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_named(scene: Scene) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = audit("serve", "--home", str(scene.home.root), "--port", str(port))
    assert ended.returncode == 1
    assert f"port {port} on 127.0.0.1 cannot be taken" in ended.stderr
    assert "--port" in ended.stderr
