"""The vault: files that are AES-256-GCM encrypted on the disk.

A file is: ``BOTTEGA`` and one byte of version, a random nonce of 12 bytes, then ciphertext and tag. The first eight
bytes and what the caller says the file *is* (``b"run/round/site"``) are authenticated with it, so a file that was
changed, or put in the place of another, does not open.

One data key serves one vault. Random nonces under one key are safe for 2^32 files (NIST SP 800-38D, 8.3); a server
that spools a thousand updates every minute would need eight years to get there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from common.errors import VaultError
from security import gcm
from security.files import check_private, read_private, replace, write_new
from security.key_file import unwrap, wrap

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"BOTTEGA\x01"
_HEAD_BYTES = len(_MAGIC) + gcm.NONCE_BYTES


@dataclass(frozen=True)
class Vault:
    """Reads and writes encrypted files under one data key. Made by :meth:`open` or :meth:`open_or_create`.

    Args:
        key: The data key, 32 bytes. Secret.
    """

    key: bytes = field(repr=False)

    @classmethod
    def open_or_create(cls, key_file: Path, passphrase: str | None = None) -> Vault:
        """Open the vault of a key file; a file that does not exist is made, with a new key.

        Args:
            key_file: Mode 0600; its folder exists. Whoever loses it loses what the vault holds.
            passphrase: Encrypts the data key in the key file (scrypt, then AES-256-GCM); None leaves it bare. It is
                chosen when the file is made, and needed ever after.

        Returns:
            The vault.

        Raises:
            VaultError: The key file cannot be read or written, is open to others, damaged, or needs another
                passphrase (or none).
        """
        if not key_file.exists():
            key = os.urandom(gcm.KEY_BYTES)
            try:
                write_new(key_file, wrap(key, passphrase), error=VaultError)
            except VaultError:
                if not key_file.exists():
                    raise
                # Another process was first: its key is the vault's.
            else:
                return cls(key)
        return cls.open(key_file, passphrase)

    @classmethod
    def open(cls, key_file: Path, passphrase: str | None = None) -> Vault:
        """Open the vault of a key file that is there.

        Args:
            key_file: Mode 0600.
            passphrase: The one that the file was made with; None if it was made without.

        Raises:
            VaultError: As :meth:`open_or_create`, and when there is no such file.
        """
        return cls(unwrap(read_private(key_file, error=VaultError), passphrase, key_file))

    def write_new(self, path: Path, plaintext: bytes, associated: bytes) -> None:
        """Encrypt a small file that must not exist yet; whatever is there already is left untouched.

        Args:
            path: Where; its folder exists. The file gets mode 0600.
            plaintext: All of it.
            associated: What the file is; :meth:`read` must be told the same.

        Raises:
            VaultError: Something is already there, or the file cannot be written.
        """
        write_new(path, self.seal(plaintext, associated), error=VaultError)

    def write(self, path: Path, plaintext: gcm.Bytes, associated: bytes) -> None:
        """Encrypt a file, taking the place of an older one only when the new one is safely on the disk.

        Args:
            path: Where; its folder exists. The file gets mode 0600.
            plaintext: Any contiguous buffer; it may be empty.
            associated: What the file is; :meth:`read` must be told the same.

        Raises:
            VaultError: It is too long, or cannot be written: the message says how much space is free, the older file
                is untouched and nothing else is left in the folder.
        """
        view = _flat(plaintext)
        if view.nbytes > gcm.MAX_PLAINTEXT_BYTES:
            raise VaultError(
                "this is too long for one file of the vault",
                got=f"{view.nbytes} bytes",
                expected=f"at most {gcm.MAX_PLAINTEXT_BYTES}",
            )
        replace(path, self._sealed(view, associated), error=VaultError)

    def read(self, path: Path, associated: bytes, out: gcm.Bytes | None = None) -> memoryview:
        """Check and decrypt a file.

        Args:
            path: The file.
            associated: What it must be, as :meth:`write` was told.
            out: A writable contiguous buffer of exactly the plaintext's size; a new one is made if left out.

        Returns:
            The plaintext as a flat view of ``out`` or of the new buffer.

        Raises:
            VaultError: The file is missing, changed, another one, or under another key, or ``out`` will not do. Then
                ``out`` does not hold any plaintext.
        """
        head, ciphertext = _read_parts(path)
        return self._opened(head, ciphertext, associated, out, path)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Return what :meth:`write` would write."""
        return b"".join(self._sealed(memoryview(plaintext), associated))

    def unseal(self, content: bytes, associated: bytes, source: Path) -> memoryview:
        """Check and decrypt what :meth:`seal` returned.

        Args:
            content: From anywhere.
            associated: What it must be.
            source: Where it is from, for messages.

        Raises:
            VaultError: It is no such file, was changed, is another one, or is under another key.
        """
        if len(content) < _HEAD_BYTES + gcm.TAG_BYTES or not content.startswith(_MAGIC):
            raise _no_file(source)
        return self._opened(content[:_HEAD_BYTES], memoryview(content)[_HEAD_BYTES:], associated, None, source)

    def _opened(
        self, head: bytes, ciphertext: memoryview, associated: bytes, out: gcm.Bytes | None, source: Path
    ) -> memoryview:
        size = ciphertext.nbytes - gcm.TAG_BYTES
        target = gcm.empty(size) if out is None else _flat(out)
        if target.nbytes != size or (target.readonly and size):
            raise VaultError("a file of the vault needs another buffer", got=target.nbytes, expected=f"{size} writable")
        try:
            gcm.open_into(self.key, head[len(_MAGIC) :], ciphertext, _MAGIC + associated, target)
        except InvalidTag:
            raise VaultError(
                f"{source} does not open: it was changed, is another file, or belongs to another key",
                advice="Restore the file, or the vault's key file, from its backup.",
            ) from None
        return target

    def _sealed(self, plaintext: memoryview, associated: bytes) -> tuple[bytes, bytes, memoryview]:
        """Return the parts of a file."""
        nonce = os.urandom(gcm.NONCE_BYTES)
        ciphertext = gcm.empty(plaintext.nbytes + gcm.TAG_BYTES)
        gcm.seal_into(self.key, nonce, plaintext, _MAGIC + associated, ciphertext)
        return _MAGIC, nonce, ciphertext


def change_passphrase(key_file: Path, before: str | None, after: str | None) -> None:
    """Wrap the data key of a vault anew. What the vault holds stays as it is.

    Args:
        key_file: Of the vault.
        before: The passphrase until now; None if there is none.
        after: The passphrase from now on; None to leave the data key bare.

    Raises:
        VaultError: ``before`` does not open the file, or it cannot be written; then it is as it was.
    """
    key = Vault.open(key_file, before).key
    replace(key_file, [wrap(key, after)], error=VaultError)


def _read_parts(path: Path) -> tuple[bytes, memoryview]:
    """Read a file's head (magic and nonce) and its ciphertext."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            check_private(found, path, error=VaultError)
            size = found.st_size - _HEAD_BYTES
            head = file.read(_HEAD_BYTES)
            if size < gcm.TAG_BYTES or not head.startswith(_MAGIC):
                raise _no_file(path)
            ciphertext = gcm.empty(size)
            taken = file.readinto(ciphertext)
    except OSError as problem:
        advice = "Restore it from a backup." if isinstance(problem, FileNotFoundError) else None
        raise VaultError(f"{path} cannot be read", got=problem.strerror, advice=advice) from problem
    if taken != size:
        raise VaultError(f"{path} changed while it was read", got=f"{taken} bytes", expected=f"{size} bytes")
    return head, ciphertext


def _no_file(path: Path) -> VaultError:
    return VaultError(f"{path} is no file of a vault", expected="BOTTEGA, version 1")


def _flat(buffer: gcm.Bytes) -> memoryview:
    try:
        return gcm.flat(buffer)
    except (TypeError, ValueError):
        raise VaultError("the vault takes one contiguous buffer of bytes", got=type(buffer).__name__) from None
