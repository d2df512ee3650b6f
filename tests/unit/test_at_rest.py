"""What lies on a home's disk: no private key in the clear, nothing that others may read, a passphrase if wanted."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from client.settings import SiteSettings
from client.settling import settle
from common.errors import BottegaError, HomeError, SettingsError, VaultError
from common.paths import Home, ServerHome, SiteHome
from security.authority import Authority
from security.cli_passphrase import add_passphrase
from security.key_folder import make_key_folder, open_key_folder
from security.keys import pkcs8_pem
from security.member import MemberKeys
from security.names import Role, SpiffeId
from security.passphrase import PASSPHRASE_FILE, passphrase, read_passphrase
from server.founding import found
from server.house import open_house
from server.operating import load_operator
from server.settings import ServerSettings
from server.store import Store

FEDERATION = "at-rest.test"


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServerHome, SiteHome]:
    root = tmp_path_factory.mktemp("homes")
    server, site = ServerHome(root / "server"), SiteHome(root / "site")
    found(server, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
    Store(server.database).close()
    settle(site, SiteSettings(federation=FEDERATION, name="rossi", server="127.0.0.1:1", data=str(root)))
    return server, site


def secrets_of(homes: tuple[ServerHome, SiteHome]) -> list[bytes]:
    server, site = homes
    house, rossi = open_house(server), SpiffeId(FEDERATION, Role.SITE, "rossi")
    held = [
        house.identity,
        load_operator(server.operator).identity,
        MemberKeys.load(open_key_folder(site), rossi).identity,
    ]
    tls = [
        Authority.load(house.keys).key, house.tls_key, load_operator(server.operator).tls,
        MemberKeys.load(open_key_folder(site), rossi).tls,
    ]  # fmt: skip
    der = serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    numbers = [key.private_numbers().private_value.to_bytes(32, "big") for key in tls]
    return [
        *(one.signing.seed for one in held),
        *(one.sealing.seed for one in held),
        *numbers,
        *(key.private_bytes(*der) for key in tls),
        *(pkcs8_pem(key)[30:90] for key in tls),
    ]


def everything(homes: tuple[ServerHome, SiteHome]) -> list[Path]:
    return [path for home in homes for path in (home.root, *home.root.rglob("*"))]


def test_no_private_key_lies_in_the_clear_but_the_one_that_flower_reads(homes: tuple[ServerHome, SiteHome]) -> None:
    secrets = secrets_of(homes)
    assert len(secrets) == 3 + 3 + 4 + 4 + 4
    plain = []
    for file in everything(homes):
        content = file.read_bytes() if file.is_file() else b""
        assert not any(secret in content for secret in secrets), file
        if b"PRIVATE KEY" in content:
            plain.append(file)
    assert plain == [homes[1].supernode_key]


PUBLIC = {"ca.crt", "server.crt", "roster.signed", "authority.pem", "supernode.pub"}


def test_only_what_is_public_may_be_read_by_others(homes: tuple[ServerHome, SiteHome]) -> None:
    wide = {path.name for path in everything(homes) if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert wide <= PUBLIC
    assert not any(path.is_dir() for path in everything(homes) if path.name in wide)


# --- the folder of keys ---


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o711])
def test_a_folder_of_keys_that_others_may_look_into_is_refused(tmp_path: Path, mode: int) -> None:
    home = SiteHome(tmp_path)
    home.keys.mkdir(mode=0o700)
    make_key_folder(home)
    home.keys.chmod(mode)
    with pytest.raises(VaultError, match=f"mode {mode:04o}; expected mode 0700. Run `chmod 700"):
        open_key_folder(home)


def test_keys_that_have_lost_their_vault_are_not_given_a_new_one(tmp_path: Path) -> None:
    home = SiteHome(tmp_path)
    home.keys.mkdir(mode=0o700)
    make_key_folder(home).keep("signing.key", b"secret")
    home.vault_key.unlink()
    for use in (make_key_folder, open_key_folder):
        with pytest.raises(VaultError):
            use(home)
    assert not home.vault_key.exists()


def test_making_a_vault_again_opens_the_one_that_is_there(tmp_path: Path) -> None:
    home = SiteHome(tmp_path)
    home.keys.mkdir(mode=0o700)
    assert make_key_folder(home) == make_key_folder(home) == open_key_folder(home)


# --- the passphrase ---


def a_file(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.touch(mode=mode)
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_passphrase_is_read_without_its_line_end(tmp_path: Path, end: bytes) -> None:
    assert read_passphrase(a_file(tmp_path / "p", "né blu né  ".encode() + end)) == "né blu né  "


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"", 0o600, "holds no passphrase; got nothing"),
        (b"\n", 0o600, "holds no passphrase; got nothing"),
        (b"\xff\xfe", 0o600, "expected text in UTF-8"),
        (b"secret", 0o644, "mode 0644; expected mode 0600"),
    ],
)
def test_what_is_no_passphrase_is_refused_and_not_told(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    with pytest.raises(VaultError, match=words) as refusal:
        read_passphrase(a_file(tmp_path / "p", content, mode))
    assert "secret" not in str(refusal.value)


def test_the_environment_names_the_file_and_an_empty_name_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSPHRASE_FILE, raising=False)
    assert passphrase() is None
    monkeypatch.setenv(PASSPHRASE_FILE, "")
    assert passphrase() is None
    monkeypatch.setenv(PASSPHRASE_FILE, str(a_file(tmp_path / "p", b"umbra")))
    assert passphrase() == "umbra"
    monkeypatch.setenv(PASSPHRASE_FILE, str(tmp_path / "nowhere"))
    with pytest.raises(VaultError, match="No such file"):
        passphrase()


# --- the command ---


def said(home: SiteHome, *words: str) -> BaseException | None:
    app = typer.Typer()
    homes: Callable[[Path], list[Home]] = lambda root: [SiteHome(root)]  # noqa: E731
    add_passphrase(app, "site", homes)
    return CliRunner().invoke(app, ["--home", str(home.root), *words]).exception


def test_a_home_is_locked_changed_and_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = SiteHome(tmp_path / "site")
    home.keys.mkdir(mode=0o700, parents=True)
    make_key_folder(home).keep("signing.key", b"seed")
    before = (home.keys / "signing.key").read_bytes()
    one, other = a_file(tmp_path / "one", b"umbra"), a_file(tmp_path / "other", b"ocra")
    for _ in range(2):  # the second time there is nothing left to do
        assert said(home, "--new", str(one)) is None
    with pytest.raises(VaultError, match="is locked under a passphrase"):
        open_key_folder(home)
    monkeypatch.setenv(PASSPHRASE_FILE, str(one))
    assert open_key_folder(home).read("signing.key") == b"seed"
    assert said(home, "--new", str(other)) is None
    with pytest.raises(VaultError, match="the passphrase does not open"):
        open_key_folder(home)
    assert isinstance(said(home, "--none"), VaultError), "who does not know the passphrase changes nothing"
    monkeypatch.setenv(PASSPHRASE_FILE, str(other))
    assert said(home, "--none") is None
    monkeypatch.delenv(PASSPHRASE_FILE)
    assert open_key_folder(home).read("signing.key") == b"seed"
    assert (home.keys / "signing.key").read_bytes() == before


@pytest.mark.parametrize("words", [(), ("--none", "--new", "file")])
def test_which_passphrase_is_said_in_one_way(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert isinstance(said(SiteHome(tmp_path), *words), SettingsError)


def test_a_folder_where_nobody_lives_is_said_to_be_one(tmp_path: Path) -> None:
    assert isinstance(said(SiteHome(tmp_path), "--none"), HomeError)


def test_a_server_founded_under_a_passphrase_needs_it_ever_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = ServerHome(tmp_path / "server")
    monkeypatch.setenv(PASSPHRASE_FILE, str(a_file(tmp_path / "p", b"umbra")))
    found(home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
    assert open_house(home).roster.version
    monkeypatch.delenv(PASSPHRASE_FILE)
    with pytest.raises(BottegaError, match="Let BOTTEGA_PASSPHRASE_FILE name a file"):
        open_house(home)
