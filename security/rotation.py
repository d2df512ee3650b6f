"""Rotations: a member goes over to new keys under the same name, and the old key says so.

Both keys sign the same exact bytes: the old one, because nobody else may say by whom a name is now spoken for; the
new one, to show that it is held. The bytes name the member (and with it the federation), the place of this rotation
among the member's own, and all keys before and after, so a rotation fits one place of one member's history alone.

All keys change together. They lie in one folder, so who lost one has lost all, and a key that came back would undo
what the rotation was for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import IdentityError
from common.proto import roster_pb2 as pb
from security.identity import Identity
from security.member_keys import Keys
from security.names import SpiffeId
from security.records import read_record

MAX_ROTATION_BYTES = 2**13
"""The longest rotation: 8 KiB, more than twice what two sets of keys and two signatures need."""

_FORMAT = 1
_DOMAIN = b"bottega/v1/rotation\x00"


@dataclass(frozen=True)
class Rotation:
    """A change of keys that both the old and the new key signed. Only :func:`open_rotation` makes one.

    Args:
        id: Whose keys change.
        serial: The how-manieth of this member's rotations, from 1.
        at_ms: When, Unix time in milliseconds, by the member's clock.
        before: The keys until then.
        after: The keys from then on; none of them is among those before.
        signed: The exact bytes of the ``SignedRotation``.
    """

    id: SpiffeId
    serial: int
    at_ms: int
    before: Keys
    after: Keys
    signed: bytes = field(repr=False)


def rotate(
    before: Identity,
    after: Identity,
    *,
    serial: int,
    now_ms: int,
    supernodes: tuple[bytes, bytes] = (b"", b""),
) -> Rotation:
    """Go over to new keys.

    Args:
        before: The name and the keys until now.
        after: The same name, and new keys.
        serial: One more than this member has rotated before.
        now_ms: Unix time, milliseconds.
        supernodes: A site's SuperNode public keys before and after, in OpenSSH format.

    Returns:
        The rotation, signed with both keys.

    Raises:
        IdentityError: Another name, a key that does not change, or a number out of range.
    """
    if before.id != after.id:
        raise IdentityError("a rotation keeps the name", got=after.id, expected=before.id)
    if not 1 <= serial < 2**32 or not 0 <= now_ms < 2**63:
        raise IdentityError("a rotation's serial or time is out of range", got=(serial, now_ms))
    content = pb.RotationContent(
        format=_FORMAT,
        spiffe_id=str(before.id),
        serial=serial,
        at_ms=now_ms,
        before=Keys.of(before.peer, supernodes[0]).to_wire(),
        after=Keys.of(after.peer, supernodes[1]).to_wire(),
    ).SerializeToString(deterministic=True)
    signed = pb.SignedRotation(
        content=content,
        before_signed=before.signing.sign(_DOMAIN + content),
        after_signed=after.signing.sign(_DOMAIN + content),
    )
    return open_rotation(signed.SerializeToString(deterministic=True))


def open_rotation(data: bytes) -> Rotation:
    """Read a rotation, or refuse it.

    Args:
        data: A serialised ``SignedRotation``, from anywhere.

    Returns:
        The rotation: both keys signed it. Whether it follows on what is known of the member is for the roster to say.

    Raises:
        IdentityError: It is no rotation, or breaks a rule, or one of the keys did not sign it.
    """
    outer = read_record(pb.SignedRotation, data, "rotation", most=MAX_ROTATION_BYTES)
    wire = read_record(pb.RotationContent, outer.content, "rotation", most=MAX_ROTATION_BYTES)
    if wire.format != _FORMAT:
        raise IdentityError("the rotation is of another format", got=wire.format, expected=_FORMAT)
    rotation = Rotation(
        id=SpiffeId.parse(wire.spiffe_id),
        serial=wire.serial,
        at_ms=wire.at_ms,
        before=Keys.from_wire(wire.before),
        after=Keys.from_wire(wire.after),
        signed=data,
    )
    if rotation.serial < 1 or rotation.at_ms >= 2**63:
        raise IdentityError("a rotation's serial or time is out of range", got=rotation.id)
    for keys in (rotation.before, rotation.after):
        keys.check_fits(rotation.id)
    if rotation.before.each & rotation.after.each:
        raise IdentityError("a rotation changes every key", got=f"a key of {rotation.id} that stays")
    message = _DOMAIN + outer.content
    if not rotation.before.verify.verifies(outer.before_signed, message):
        raise IdentityError("a rotation is not countersigned by the key before it", got=rotation.id)
    if not rotation.after.verify.verifies(outer.after_signed, message):
        raise IdentityError("a rotation is not signed by the key after it", got=rotation.id)
    return rotation
