"""Going over to new keys under the same name, countersigned by the old ones.

The new keys and the rotation that both sign are made and kept first, in ``keys.next``; then the server is asked; then
the folders change places. Cut off at any step, the same command goes on: the server answers the same rotation again.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from client.settling import known_roster
from common.errors import IdentityError
from common.paths import MemberHome
from common.proto import registry_pb2 as pb
from security.authority import load_certificate, save_certificate
from security.calling import CALL_S, registry
from security.enrolment import MemberKeys
from security.files import PUBLIC, read_public, write_new
from security.identity import Peer
from security.key_folder import open_key_folder
from security.membership import checked_certificate
from security.names import SpiffeId
from security.renewal import make_renewal
from security.rotation import rotate
from security.succession import keep_roster

_ROTATION = "rotation.signed"
_CERTIFICATE = "member.crt"


def rotate_keys(home: MemberHome, who: SpiffeId, address: str) -> MemberKeys:
    """Make new keys for a member, have the server put them in the roster, and move over to them.

    Args:
        home: The member's.
        who: Their name.
        address: Host and port of the registry.

    Returns:
        The new keys, which are now in the home.

    Raises:
        IdentityError: The server refuses, or a file cannot be read or written.
        ProcessError: The server cannot be reached.
    """
    if not _is_taken(home):
        before = MemberKeys.load(open_key_folder(home), who)
        _ask(home, before, _prepared(home, before), address)
    return _moved_over(home, who)


def finish_rotation(home: MemberHome, who: SpiffeId) -> None:
    """Move over to new keys that the server has taken already, if a rotation was cut off after that.

    Raises:
        IdentityError: A file cannot be read or written.
    """
    if _is_taken(home):
        _moved_over(home, who)


def _is_taken(home: MemberHome) -> bool:
    """Return whether the server has taken new keys that the member has not wholly moved over to."""
    return any((folder / _CERTIFICATE).exists() for folder in (_next(home), home.keys))


def _prepared(home: MemberHome, before: MemberKeys) -> MemberKeys:
    fresh = _next(home)
    fresh.mkdir(mode=0o700, exist_ok=True)
    after = MemberKeys.create(open_key_folder(home).beside(fresh), before.id)
    if not (fresh / _ROTATION).exists():
        serial = len(known_roster(home).rotations_of(before.id)) + 1
        supernodes = before.public.supernode, after.public.supernode
        rotation = rotate(
            before.identity, after.identity, serial=serial, now_ms=int(time.time() * 1000), supernodes=supernodes
        )
        write_new(fresh / _ROTATION, rotation.signed, error=IdentityError, mode=PUBLIC)
    return after


def _ask(home: MemberHome, before: MemberKeys, after: MemberKeys, address: str) -> None:
    rotation = read_public(_next(home) / _ROTATION, error=IdentityError)
    csr, signature = make_renewal(after)
    call = pb.RotateCall(rotation=rotation, csr=csr, signature=signature)
    with registry(home, before, address) as stub:
        answer = stub.Rotate(call, timeout=CALL_S)
    certificate = checked_certificate(answer.certificate, after)
    roster = keep_roster(home.roster, answer.roster, Peer.pinned(home.pinned_server))
    if roster[before.id] != after.identity.peer:
        raise IdentityError("the server's roster does not have the new keys", got=before.id)
    # Its presence says that the server has taken the new keys: from here on there is no way back.
    save_certificate(_next(home) / _CERTIFICATE, certificate)


def _moved_over(home: MemberHome, who: SpiffeId) -> MemberKeys:
    if _next(home).exists():
        if home.keys.exists():
            shutil.rmtree(_left_over(home), ignore_errors=True)
            home.keys.rename(_left_over(home))
        _next(home).rename(home.keys)
    save_certificate(home.certificate, load_certificate(home.keys / _CERTIFICATE))
    shutil.rmtree(_left_over(home), ignore_errors=True)
    for spent in (_ROTATION, _CERTIFICATE):  # the one that says that there is something to finish goes last
        (home.keys / spent).unlink(missing_ok=True)
    return MemberKeys.load(open_key_folder(home), who)


def _next(home: MemberHome) -> Path:
    return home.root / "keys.next"


def _left_over(home: MemberHome) -> Path:
    return home.root / "keys.old"
