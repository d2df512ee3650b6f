"""Files that are encrypted at rest."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common.errors import VaultError
from security.vault import Vault

WHAT = b"run-1/3/prado"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.open_or_create(tmp_path / "vault.key")


def _files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# --- reading what was written ---


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 1_000_003])
def test_what_is_written_is_read_back(tmp_path: Path, vault: Vault, size: int) -> None:
    plaintext = os.urandom(size)
    vault.write(tmp_path / "update", plaintext, WHAT)
    assert bytes(vault.read(tmp_path / "update", WHAT)) == plaintext


def test_an_array_is_written_and_read_into_an_array_without_copies_between(tmp_path: Path, vault: Vault) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    vault.write(tmp_path / "update", array, WHAT)
    out = np.empty_like(array)
    view = vault.read(tmp_path / "update", WHAT, out=out)
    assert np.array_equal(out, array)
    assert view.nbytes == 96
    assert np.shares_memory(np.frombuffer(view, np.uint8), out)


def test_the_file_is_magic_nonce_ciphertext_and_tag(tmp_path: Path, vault: Vault) -> None:
    vault.write(tmp_path / "update", b"x" * 100, WHAT)
    content = (tmp_path / "update").read_bytes()
    assert len(content) == 8 + 12 + 100 + 16
    assert content.startswith(b"BOTTEGA\x01")


def test_the_same_plaintext_is_never_written_the_same_way(tmp_path: Path, vault: Vault) -> None:
    vault.write(tmp_path / "a", b"x" * 100, WHAT)
    vault.write(tmp_path / "b", b"x" * 100, WHAT)
    a, b = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    assert a[8:20] != b[8:20]
    assert a[20:] != b[20:]


def test_no_plaintext_and_no_other_file_is_left_in_the_folder(tmp_path: Path, vault: Vault) -> None:
    plaintext = b"a line that must not be found on the disk " * 50
    vault.write(tmp_path / "update", plaintext, WHAT)
    vault.write(tmp_path / "update", plaintext, WHAT)
    assert _files(tmp_path) == ["update", "vault.key"]
    for file in tmp_path.iterdir():
        assert b"must not be found" not in file.read_bytes()


def test_files_are_for_their_owner_only(tmp_path: Path, vault: Vault) -> None:
    vault.write(tmp_path / "update", b"x", WHAT)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


# --- refusals ---


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 99), flip=st.integers(1, 255))
@example(at=0, flip=1)
@example(at=7, flip=1)
@example(at=99, flip=128)
def test_a_changed_byte_anywhere_is_refused(tmp_path: Path, vault: Vault, at: int, flip: int) -> None:
    path = tmp_path / "update"
    vault.write(path, b"p" * 64, WHAT)
    content = bytearray(path.read_bytes())
    assert len(content) == 100
    content[at] ^= flip
    path.write_bytes(content)
    out = bytearray(b"old" * 21 + b"!")
    with pytest.raises(VaultError):
        vault.read(path, WHAT, out=out)
    assert b"p" not in out


def test_a_truncated_or_lengthened_file_is_refused(tmp_path: Path, vault: Vault) -> None:
    path = tmp_path / "update"
    vault.write(path, b"p" * 20, WHAT)
    content = path.read_bytes()
    for changed in [content[:length] for length in range(len(content))] + [content + b"\0"]:
        path.write_bytes(changed)
        with pytest.raises(VaultError):
            vault.read(path, WHAT)


def test_a_file_in_the_place_of_another_is_refused(tmp_path: Path, vault: Vault) -> None:
    vault.write(tmp_path / "prado", b"from prado", b"run-1/3/prado")
    vault.write(tmp_path / "uffizi", b"from uffizi", b"run-1/3/uffizi")
    shutil.copy(tmp_path / "prado", tmp_path / "uffizi")
    with pytest.raises(VaultError, match="is another file"):
        vault.read(tmp_path / "uffizi", b"run-1/3/uffizi")
    assert bytes(vault.read(tmp_path / "prado", b"run-1/3/prado")) == b"from prado"


def test_a_file_of_another_vault_is_refused(tmp_path: Path, vault: Vault) -> None:
    vault.write(tmp_path / "update", b"x", WHAT)
    other = Vault.open_or_create(tmp_path / "other.key")
    with pytest.raises(VaultError, match="another key"):
        other.read(tmp_path / "update", WHAT)


def test_a_missing_file_and_a_missing_folder_are_vault_errors(tmp_path: Path, vault: Vault) -> None:
    with pytest.raises(VaultError, match="No such file"):
        vault.read(tmp_path / "nothing", WHAT)
    with pytest.raises(VaultError, match="No such file"):
        vault.write(tmp_path / "nowhere" / "update", b"x", WHAT)


def test_a_buffer_of_another_size_or_that_cannot_be_written_is_refused(tmp_path: Path, vault: Vault) -> None:
    vault.write(tmp_path / "update", b"x" * 10, WHAT)
    for out in (bytearray(9), bytearray(11), bytes(10)):
        with pytest.raises(VaultError, match="another buffer"):
            vault.read(tmp_path / "update", WHAT, out=out)
    with pytest.raises(VaultError, match="contiguous"):
        vault.write(tmp_path / "update", np.zeros((4, 4))[:, ::2], WHAT)


# --- a disk that is full ---

_WRITE_TOO_MUCH = """
import sys
from pathlib import Path
from common.errors import VaultError
from security.vault import Vault
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
vault = Vault.open_or_create(folder / "vault.key")
vault.write(folder / "update", b"old", b"what")
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    vault.write(folder / "update", bytes(1_000_000), b"what")
except VaultError as error:
    print(error)
print(sorted(file.name for file in folder.iterdir()), bytes(vault.read(folder / "update", b"what")))
"""


def _write_too_much(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_that_the_system_will_not_take_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    said = _write_too_much([sys.executable, "-c", _WRITE_TOO_MUCH, str(tmp_path), "100000"])
    assert "File too large" in said
    assert "bytes free" in said
    assert "['update', 'vault.key'] b'old'" in said


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    """On a file system of 256 KiB, mounted in a name space of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:  # noqa: S607
        pytest.skip("this machine lets nobody mount a small file system")
    script = 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$2" -c "$3" "$1" 0'
    said = _write_too_much(
        ["unshare", "-Urm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, _WRITE_TOO_MUCH]
    )
    assert "No space left on device" in said
    free = re.search(r"\((\d+) bytes free\)", said)
    assert free is not None
    assert 200_000 < int(free[1]) <= 262_144  # the part that was written is already gone
    assert "['update', 'vault.key'] b'old'" in said


# --- the key file ---


def test_the_same_key_file_opens_the_same_vault(tmp_path: Path, vault: Vault) -> None:
    assert Vault.open_or_create(tmp_path / "vault.key") == vault
    assert Vault.open_or_create(tmp_path / "other.key") != vault


def test_the_key_is_never_printed(vault: Vault) -> None:
    assert repr(vault) == "Vault()"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_file_that_is_open_to_others_is_refused(tmp_path: Path, vault: Vault, mode: int) -> None:
    (tmp_path / "vault.key").chmod(mode)
    with pytest.raises(VaultError, match=f"mode {mode:04o}"):
        Vault.open_or_create(tmp_path / "vault.key")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff" * 32,
        b'{"version": 1, "wrapping": "none", "key": "AAAA"}',
        b'{"version": 1, "wrapping": "none", "key": "!"}',
        b'{"version": 2, "wrapping": "none", "key": "AAAA"}',
    ],
)
def test_a_damaged_key_file_is_refused_and_left_as_it_is(tmp_path: Path, vault: Vault, content: bytes) -> None:
    key_file = tmp_path / "vault.key"
    key_file.write_bytes(content)
    with pytest.raises(VaultError):
        Vault.open_or_create(key_file)
    assert key_file.read_bytes() == content


def test_a_passphrase_opens_what_it_closed_and_no_other_does(tmp_path: Path) -> None:
    key_file = tmp_path / "vault.key"
    vault = Vault.open_or_create(key_file, "chiaroscuro")
    assert Vault.open_or_create(key_file, "chiaroscuro") == vault
    with pytest.raises(VaultError, match="passphrase does not open"):
        Vault.open_or_create(key_file, "sfumato")
    with pytest.raises(VaultError, match="is locked under a passphrase; got none"):
        Vault.open_or_create(key_file)


def test_a_passphrase_for_a_bare_key_file_is_refused_rather_than_ignored(tmp_path: Path, vault: Vault) -> None:
    with pytest.raises(VaultError, match="is locked under no passphrase; got one"):
        Vault.open_or_create(tmp_path / "vault.key", "chiaroscuro")
