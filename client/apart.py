"""What an agent hands to a SuperNode that runs apart from it, as another user: a key, a certificate, an address.

The share lies in the agent's home and is mounted into the SuperNode's. Whoever makes that folder for a group (0750,
the group being the SuperNode's, and the agent's user in it) lets it in; made by the agent, it is for its owner alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from client.agent_socket import give_to_the_group, is_for_a_group, made
from client.supernode_settings import SuperNodeSettings
from common.errors import AgentError
from common.paths import SiteHome, SuperNodeHome
from security.files import PRIVATE, read_private, read_public, replace

_FOR_THE_GROUP = 0o640


def hand_over(home: SiteHome, settings: SuperNodeSettings) -> None:
    """Put into the share what a SuperNode apart has to know; what is there already is left as it is.

    Raises:
        AgentError: A file cannot be read, written or given to the group, or the key is open to others at the agent's.
    """
    share, there = made(home.share), SuperNodeHome(home.root)
    group = is_for_a_group(share)
    told = settings.model_dump(mode="json", include=set(SuperNodeSettings.model_fields))
    for path, content in (
        (there.supernode_key, read_private(home.supernode_key, error=AgentError)),
        (there.authority_certificate, read_public(home.authority_certificate, error=AgentError)),
        (there.settings, tomli_w.dumps(told).encode()),  # last: its presence says that all is there
    ):
        if not path.exists() or path.read_bytes() != content:
            replace(path, [content], error=AgentError, mode=_FOR_THE_GROUP if group else PRIVATE)
        if group:
            give_to_the_group(path)


def handed_over(home: SuperNodeHome) -> tuple[int, ...] | None:
    """Return what are other numbers when the agent hands over something else; None when it has not yet.

    Raises:
        AgentError: The share may not be looked into.
    """
    files = (home.settings, home.supernode_key, home.authority_certificate)
    try:
        told = tuple(file.stat().st_ino for file in files)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise AgentError(
            "what the agent hands over cannot be read", got=cause.strerror, expected="a folder for this user's group",
            advice="docs/guides/service.md says how the two users share it.",
        ) from None  # fmt: skip
    return told if os.access(home.settings, os.R_OK) else None  # it is given to the group after it is there


@contextlib.contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock file for as long as something runs of which a home has one.

    Raises:
        AgentError: Another one holds it, or it cannot be made.
    """
    try:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as cause:
        raise AgentError(
            f"{lock} cannot be made", got=cause.strerror, expected="leave to write", advice="Look at --home."
        ) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AgentError(
            f"another {what} already serves this home", advice="Stop it first, or use its answer."
        ) from None
    finally:
        os.close(held)


def is_held(lock: Path) -> bool:
    """Return whether something runs that holds a lock file (:func:`alone`)."""
    try:
        found = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(found, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(found)
    return False
