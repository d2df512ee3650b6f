"""Enrolment: keys that survive a crash, requests that prove what they say, grants that only the right one believes."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.errors import IdentityError, VaultError
from common.proto import enrolment_pb2 as pb
from security import grant as grant_module
from security import join_request, statement
from security.enrolment import (
    MAX_GRANT_BYTES,
    MAX_REQUEST_BYTES,
    Grant,
    Invitation,
    JoinRequest,
    MemberKeys,
    Newcomer,
    certificate_fingerprint,
    make_grant,
    make_request,
    matches,
    open_grant,
    open_request,
    secret_hash,
    vouch,
    vouched_server,
)
from security.identity import (
    Identity,
    Role,
    SealingPublicKey,
    SpiffeId,
    create_authority,
    create_supernode_key,
)
from security.keys import supernode_line
from security.records import joined
from tests.unit.kept import kept

FEDERATION = "atelier.example"
# Half an hour ahead: a certificate that a test issues while the tests run, however long they take, holds at NOW.
NOW = int(time.time() * 1000) + 1_800_000
DAY = 24 * 3600 * 1000
AUTHORITY = create_authority(FEDERATION)
PINNED = certificate_fingerprint(AUTHORITY.certificate)
SERVER = Identity.generate(SpiffeId(FEDERATION, Role.SERVER, "hub"))
PRADO = MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, "prado"))
UFFIZI = MemberKeys.generate(SpiffeId(FEDERATION, Role.SITE, "uffizi"))
INVITATION = Invitation.create(PRADO.id, "hub.example:8442", PINNED, NOW + DAY)
REQUEST = make_request(PRADO, invitation=INVITATION, now_ms=NOW)
STATEMENT = vouch(AUTHORITY, SERVER.peer, now_ms=NOW)
CERTIFICATE = AUTHORITY.issue(PRADO.id, PRADO.tls.public_key())
SETTINGS = {"server": "hub.example:8440", "rounds": [1, 2.5, None, "ü"], "policy": {"strict": True}}
ROSTER = b"\x00the roster, opaque\xff" * 20
KEY_FILES = {"tls.key", "signing.key", "sealing.key", "supernode"}


def _other_name(keys: MemberKeys, spiffe_id: SpiffeId) -> MemberKeys:
    """Return the same keys under another name, as far as its role has them."""
    identity = dataclasses.replace(keys.identity, id=spiffe_id)
    return MemberKeys(identity, keys.tls, keys.supernode if spiffe_id.role is Role.SITE else None)


# --- the keys of a newcomer ---


def test_a_newcomer_makes_four_keys_for_their_owner_only(tmp_path: Path) -> None:
    keys = MemberKeys.create(kept(tmp_path), PRADO.id)
    assert {file.name for file in tmp_path.iterdir()} == KEY_FILES | {"supernode.pub"}
    for name in KEY_FILES:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert MemberKeys.load(kept(tmp_path), PRADO.id).public == keys.public
    assert keys.id == PRADO.id
    assert Identity.load(kept(tmp_path), PRADO.id) == keys.identity  # the files that a site reads today
    assert (tmp_path / "supernode.pub").read_bytes() == keys.public.supernode + b"\n"


def test_making_the_keys_again_changes_nothing(tmp_path: Path) -> None:
    keys = MemberKeys.create(kept(tmp_path), PRADO.id)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert MemberKeys.create(kept(tmp_path), PRADO.id).public == keys.public
    keys.save(kept(tmp_path))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


class _PowerCut(BaseException):
    """Nothing below may catch it by accident, as nothing catches a power cut."""


def test_after_a_crash_at_any_step_making_the_keys_goes_on_with_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power is cut before and after every flush and every naming of a file, one after the other."""
    left = 0

    def tick() -> None:
        nonlocal left
        if left == 0:
            raise _PowerCut
        left -= 1

    def cut(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: object, **more: object) -> object:
            tick()
            result = real(*args, **more)
            tick()
            return result

        return step

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, cut(getattr(os, name)))
    monkeypatch.setattr(Path, "replace", cut(Path.replace))
    steps, done = 0, False
    while not done:
        folder = tmp_path / str(steps)
        folder.mkdir()
        left = steps
        try:
            MemberKeys.create(kept(folder), PRADO.id)
            done = True
        except _PowerCut:
            pass
        there = {file.name: file.read_bytes() for file in folder.iterdir() if file.name in KEY_FILES}
        left = 10_000
        keys = MemberKeys.create(kept(folder), PRADO.id)
        assert {name: (folder / name).read_bytes() for name in there} == there
        assert MemberKeys.load(kept(folder), PRADO.id).public == keys.public
        assert (folder / "supernode.pub").read_bytes() == keys.public.supernode + b"\n"
        steps += 1
    assert steps > 20


def test_a_key_of_which_the_public_file_was_not_written_gets_it(tmp_path: Path) -> None:
    keys = MemberKeys.create(kept(tmp_path), PRADO.id)
    for stale in (None, b"ecdsa-sha2-nistp384 AAAA of a key that was lost\n"):
        (tmp_path / "supernode.pub").unlink()
        if stale:
            (tmp_path / "supernode.pub").write_bytes(stale)
        assert MemberKeys.create(kept(tmp_path), PRADO.id).public == keys.public
        assert (tmp_path / "supernode.pub").read_bytes() == keys.public.supernode + b"\n"


@pytest.mark.parametrize("name", sorted(KEY_FILES))
def test_keys_are_never_laid_over_others(tmp_path: Path, name: str) -> None:
    UFFIZI.save(kept(tmp_path / _made(tmp_path, "other")))
    folder = tmp_path / _made(tmp_path, "half")
    shutil.copy(tmp_path / "other" / name, folder / name)
    before = (folder / name).read_bytes()
    with pytest.raises(IdentityError, match="other keys are already in"):
        PRADO.save(kept(folder))
    assert [file.name for file in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == before


def _made(folder: Path, name: str) -> str:
    (folder / name).mkdir()
    return name


@pytest.mark.parametrize("name", sorted(KEY_FILES))
@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_a_damaged_key_is_neither_used_nor_replaced(tmp_path: Path, name: str, content: bytes) -> None:
    MemberKeys.create(kept(tmp_path), PRADO.id)
    (tmp_path / name).write_bytes(content)
    for use in (MemberKeys.create, MemberKeys.load):
        with pytest.raises((IdentityError, VaultError)):
            use(kept(tmp_path), PRADO.id)
    assert (tmp_path / name).read_bytes() == content


@pytest.mark.parametrize("name", sorted(KEY_FILES))
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, name: str) -> None:
    MemberKeys.create(kept(tmp_path), PRADO.id)
    (tmp_path / name).chmod(0o644)
    for use in (MemberKeys.create, MemberKeys.load):
        with pytest.raises((IdentityError, VaultError), match="mode 0644; expected mode 0600"):
            use(kept(tmp_path), PRADO.id)


@pytest.mark.parametrize("name", sorted(KEY_FILES))
def test_a_truncated_key_is_refused(tmp_path: Path, name: str) -> None:
    MemberKeys.create(kept(tmp_path), PRADO.id)
    whole = (tmp_path / name).read_bytes()
    for length in range(0, len(whole) - 2, 7):
        (tmp_path / name).write_bytes(whole[:length])
        with pytest.raises((IdentityError, VaultError)):
            MemberKeys.load(kept(tmp_path), PRADO.id)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.AUDITOR])
def test_nobody_but_a_site_makes_the_key_of_a_supernode(tmp_path: Path, role: Role) -> None:
    spiffe_id = SpiffeId(FEDERATION, role, "rossi")
    keys = MemberKeys.create(kept(tmp_path), spiffe_id)
    assert {file.name for file in tmp_path.iterdir()} == KEY_FILES - {"supernode"}
    assert keys.public.supernode == b""
    assert (
        MemberKeys.load(kept(tmp_path), spiffe_id).public
        == MemberKeys.create(kept(tmp_path), spiffe_id).public
        == keys.public
    )


@pytest.mark.parametrize("name", sorted(KEY_FILES))
def test_a_missing_key_is_told_when_loading(tmp_path: Path, name: str) -> None:
    MemberKeys.create(kept(tmp_path), PRADO.id)
    (tmp_path / name).unlink()
    with pytest.raises((IdentityError, VaultError), match="No such file"):
        MemberKeys.load(kept(tmp_path), PRADO.id)


def test_one_kind_of_key_is_not_taken_for_another(tmp_path: Path) -> None:
    MemberKeys.create(kept(tmp_path), PRADO.id)
    shutil.copy(tmp_path / "signing.key", tmp_path / "tls.key")
    with pytest.raises(VaultError, match="is another file"):
        MemberKeys.load(kept(tmp_path), PRADO.id)
    (tmp_path / "tls.key").unlink()
    key = ec.generate_private_key(ec.SECP256R1())
    ssh = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    (tmp_path / "supernode").write_bytes(key.private_bytes(*ssh))
    with pytest.raises(IdentityError, match="another kind of key; expected ECDSA P-384"):
        MemberKeys.create(kept(tmp_path), PRADO.id)


def test_a_supernode_key_that_was_there_before_is_used(tmp_path: Path) -> None:
    create_supernode_key(tmp_path / "supernode")
    line = (tmp_path / "supernode.pub").read_bytes()
    assert MemberKeys.create(kept(tmp_path), PRADO.id).public.supernode + b"\n" == line


def test_no_private_key_is_printed() -> None:
    printed = repr(PRADO) + repr(PRADO.public)
    for secret in (PRADO.identity.signing.seed, PRADO.identity.sealing.seed):
        assert repr(secret) not in printed
    assert "PrivateKey" not in printed


# --- what a request says ---


def test_a_request_arrives_with_name_keys_and_invitation() -> None:
    request = open_request(REQUEST, now_ms=NOW)
    assert request.member == PRADO.public
    assert request.created_at_ms == NOW
    assert request.invitation_id == INVITATION.id
    assert request.secret == INVITATION.secret
    assert matches(secret_hash(INVITATION.id, INVITATION.secret), request.invitation_id, request.secret)
    assert request.member.peer == PRADO.identity.peer
    assert str(INVITATION.secret) not in repr(request)


@pytest.mark.parametrize("role", [Role.SITE, Role.OPERATOR, Role.AUDITOR])
def test_the_offline_way_uses_the_same_record_without_an_invitation(role: Role) -> None:
    keys = _other_name(PRADO, SpiffeId(FEDERATION, role, "prado"))
    request = open_request(make_request(keys, invitation=None, now_ms=NOW), now_ms=NOW + 7 * DAY)
    assert (request.member, request.invitation_id, request.secret) == (keys.public, None, None)


def test_both_ends_see_the_same_words_and_every_part_changes_them() -> None:
    """The name, and each of the four keys."""
    assert open_request(REQUEST, now_ms=NOW).fingerprint == PRADO.fingerprint
    other = UFFIZI.public
    seen = {PRADO.fingerprint.words}
    for part in ("id", "tls", "verify", "sealing", "supernode"):
        seen.add(dataclasses.replace(PRADO.public, **{part: getattr(other, part)}).fingerprint.words)
    assert len(seen) == 6


def test_the_fingerprint_stays_while_requests_differ() -> None:
    """Making a request again, as after a crash, shows the operator no other words."""
    again = make_request(PRADO, invitation=None, now_ms=NOW + 1)
    assert again != REQUEST
    assert open_request(again, now_ms=NOW).fingerprint == PRADO.fingerprint


def test_an_invitation_of_somebody_else_is_not_used() -> None:
    for other in (UFFIZI.id, SpiffeId(FEDERATION, Role.AUDITOR, "prado"), SpiffeId("b.example", Role.SITE, "prado")):
        with pytest.raises(IdentityError, match="the invitation is for somebody else"):
            make_request(_other_name(PRADO, other), invitation=INVITATION, now_ms=NOW)


def test_a_server_does_not_join() -> None:
    keys = _other_name(PRADO, SERVER.id)
    with pytest.raises(IdentityError, match="a server does not ask"):
        make_request(keys, invitation=None, now_ms=NOW)
    with pytest.raises(IdentityError, match="a server does not ask"):
        open_request(_request(spiffe_id=str(SERVER.id)), now_ms=NOW)


# --- any change of a request is refused ---


def test_every_byte_of_a_request_is_guarded() -> None:
    for at in range(len(REQUEST)):
        changed = bytearray(REQUEST)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(IdentityError):
            open_request(bytes(changed), now_ms=NOW)


def _differently(whole: bytes) -> st.SearchStrategy[bytes]:
    """Change a byte, take some out, or put some in."""
    places = st.integers(0, len(whole) - 1)
    changed = st.builds(
        lambda at, flip: whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :], places, st.integers(1, 255)
    )
    cut = st.builds(lambda at, count: whole[:at] + whole[at + count :], places, st.integers(1, 40))
    longer = st.builds(lambda at, more: whole[:at] + more + whole[at:], places, st.binary(min_size=1, max_size=40))
    return st.one_of(changed, cut, longer).filter(lambda other: other != whole)


@settings(max_examples=300)
@given(_differently(REQUEST))
def test_a_changed_request_is_refused(changed: bytes) -> None:
    with pytest.raises(IdentityError):
        open_request(changed, now_ms=NOW)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_no_request(data: bytes) -> None:
    for candidate in (data, pb.JoinRequest(body=data, signature=b"x").SerializeToString(), REQUEST + data + b"\x00"):
        with pytest.raises(IdentityError):
            open_request(candidate, now_ms=NOW)


def _request(keys: MemberKeys = PRADO, /, **fields: Any) -> bytes:  # noqa: ANN401  a field of any type
    """Sign a request with some fields changed, as a newcomer of ill will can."""
    body = pb.JoinBody.FromString(pb.JoinRequest.FromString(REQUEST).body)
    for name, value in fields.items():
        setattr(body, name, value)
    return _signed(body.SerializeToString(), keys)


def _signed(body: bytes, keys: MemberKeys = PRADO) -> bytes:
    assert keys.supernode
    supernode = joined(join_request._SUPERNODE_DOMAIN, body)
    return pb.JoinRequest(
        body=body,
        signature=keys.identity.signing.sign(joined(join_request._SIGNATURE_DOMAIN, body)),
        supernode_signature=keys.supernode.sign(supernode, ec.ECDSA(hashes.SHA384())),
    ).SerializeToString()


AUDITOR = MemberKeys.generate(SpiffeId(FEDERATION, Role.AUDITOR, "prado"))


def test_a_supernode_is_of_a_site_and_of_nobody_else() -> None:
    request = make_request(AUDITOR, invitation=None, now_ms=NOW)
    assert open_request(request, now_ms=NOW).member.supernode == b""
    wire = pb.JoinRequest.FromString(request)
    wire.supernode_signature = b"x"
    with pytest.raises(IdentityError, match="nobody but a site has a SuperNode"):
        open_request(wire.SerializeToString(), now_ms=NOW)
    with pytest.raises(IdentityError, match="nobody but a site has a SuperNode"):
        open_request(_request(spiffe_id=str(AUDITOR.id)), now_ms=NOW)
    posing = dataclasses.replace(PRADO, supernode=None)
    with pytest.raises(IdentityError, match="SuperNode's public key cannot be used"):
        open_request(make_request(posing, invitation=None, now_ms=NOW), now_ms=NOW)


def test_a_supernode_key_changed_by_who_signs_the_request_is_refused_in_words() -> None:
    """Every byte of the key once: a point in another form, on another curve, on none."""
    kind, encoded = PRADO.public.supernode.split(b" ")
    blob = base64.b64decode(encoded)
    for at in range(len(blob)):
        changed = bytearray(blob)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(IdentityError):
            open_request(_request(supernode=kind + b" " + base64.b64encode(changed)), now_ms=NOW)
    compressed = blob[:39] + b"\x02" + blob[40:]
    with pytest.raises(IdentityError, match="SuperNode's public key cannot be used"):
        open_request(_request(supernode=kind + b" " + base64.b64encode(compressed)), now_ms=NOW)


def _csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = PRADO.tls,
    names: list[x509.GeneralName] | None = None,
    subject: str = "prado",
    more: x509.ExtensionType | None = None,
    digest: hashes.SHA256 | hashes.SHA384 | None = None,
) -> bytes:
    names = [x509.UniformResourceIdentifier(str(PRADO.id))] if names is None else names
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if more is not None:
        builder = builder.add_extension(more, critical=True)
    return builder.sign(key, digest or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_the_forging_of_these_tests_makes_good_requests_too() -> None:
    assert open_request(_request(csr=_csr()), now_ms=NOW).member == PRADO.public


URI = x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    ("csr", "message"),
    [
        (_csr(names=[URI(str(UFFIZI.id))]), "CSR names somebody or something else"),
        (_csr(names=[URI(f"spiffe://{FEDERATION}/operator/prado")]), "CSR names somebody or something else"),
        (_csr(names=[URI(str(PRADO.id)), x509.DNSName("hub.example")]), "CSR names somebody or something else"),
        (_csr(names=[]), "CSR names somebody or something else"),
        (_csr(subject="uffizi"), "CSR names somebody or something else"),
        (_csr(more=x509.BasicConstraints(ca=True, path_length=None)), "CSR names somebody or something else"),
        (_csr(ec.generate_private_key(ec.SECP384R1())), "key is of another kind; got .*; expected ECDSA P-256"),
        (_csr(rsa.generate_private_key(65537, 2048)), "key is of another kind; got RSAPublicKey"),
        (_csr(digest=hashes.SHA384()), "not signed by the TLS key"),
        (_csr()[:-1] + b"\x00", "not signed by the TLS key|cannot be read"),
        (_csr() + b"\x00", "cannot be read"),
        (b"", "cannot be read"),
        (CERTIFICATE.public_bytes(serialization.Encoding.DER), "cannot be read"),
    ],
    ids=["name", "role", "dns", "none", "subject", "ca", "p384", "rsa", "digest", "forged", "longer", "empty", "cert"],
)
def test_a_csr_that_disagrees_is_refused(csr: bytes, message: str) -> None:
    with pytest.raises(IdentityError, match=message):
        open_request(_request(csr=csr), now_ms=NOW)


def test_the_csr_of_somebody_else_is_refused() -> None:
    """Of another name, even within one's own signed request."""
    theirs = pb.JoinBody.FromString(
        pb.JoinRequest.FromString(make_request(UFFIZI, invitation=None, now_ms=NOW)).body
    ).csr
    with pytest.raises(IdentityError, match="names somebody or something else"):
        open_request(_request(csr=theirs), now_ms=NOW)


P256_LINE = supernode_line(PRADO.tls.public_key())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "version does not match; got 2; expected 1"),
        ({"version": 0}, "version does not match; got 0; expected 1"),
        ({"spiffe_id": "prado\x1b[31m"}, "no SPIFFE id"),
        ({"spiffe_id": str(UFFIZI.id)}, "CSR names somebody or something else"),
        ({"verify": b"short"}, "no Ed25519 public key"),
        ({"verify": UFFIZI.public.verify.raw}, "signature is not by the Ed25519 key"),
        ({"sealing": b""}, "no MLKEM768-X25519 public key"),
        ({"sealing": b"\xff" * 1216}, "no MLKEM768-X25519 public key"),
        ({"supernode": UFFIZI.public.supernode}, "not signed by the SuperNode key"),
        ({"supernode": PRADO.public.supernode + b" a comment"}, "SuperNode's public key cannot be used"),
        ({"supernode": PRADO.public.supernode + b"\n"}, "SuperNode's public key cannot be used"),
        ({"supernode": P256_LINE}, "SuperNode's public key cannot be used"),
        ({"supernode": b"ecdsa-sha2-nistp384 AAAA"}, "SuperNode's public key cannot be used"),
        ({"supernode": b""}, "SuperNode's public key cannot be used"),
        ({"invitation": b""}, "length of the invitation's id does not match; got 0; expected 16"),
        ({"secret": b"short"}, "length of the invitation's secret does not match; got 5; expected 32"),
        ({"created_at_ms": 2**64 - 1}, "from the future"),
        ({"created_at_ms": 0}, "stale"),
    ],
)
def test_a_request_that_breaks_the_rules_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(IdentityError, match=message) as caught:
        open_request(_request(**fields), now_ms=NOW)
    assert str(caught.value).isprintable()


@settings(max_examples=150)
@given(
    field=st.sampled_from(["csr", "verify", "sealing", "supernode", "invitation", "secret"]),
    value=st.binary(max_size=60) | st.binary(max_size=60).map(lambda more: b"ecdsa-sha2-nistp384 " + more),
)
def test_whatever_a_newcomer_signs_is_refused_in_words(field: str, value: bytes) -> None:
    # An id or secret of the right length is well formed, whatever it is; whether it is known, the store says.
    assume((field, len(value)) not in {("invitation", 16), ("secret", 32)})
    with pytest.raises(IdentityError):
        open_request(_request(**{field: value}), now_ms=NOW)


@settings(max_examples=300)
@given(_differently(_csr()))
def test_a_csr_changed_by_who_signs_the_request_is_refused_in_words(csr: bytes) -> None:
    with pytest.raises(IdentityError):
        open_request(_request(csr=csr), now_ms=NOW)


def test_a_request_must_be_signed_by_every_key_in_it() -> None:
    for part in ("identity", "supernode"):
        impostor = dataclasses.replace(PRADO, **{part: getattr(UFFIZI, part)})
        with pytest.raises(IdentityError, match="sign"):
            open_request(_request(impostor), now_ms=NOW)


def test_a_signature_over_a_request_is_good_for_nothing_else() -> None:
    """Without its domain, or under the other's, the same signature does not hold."""
    wire = pb.JoinRequest.FromString(REQUEST)
    for message in (wire.body, joined(join_request._SUPERNODE_DOMAIN, wire.body)):
        assert not PRADO.public.verify.verifies(wire.signature, message)


def test_a_request_signed_under_another_encoding_is_refused() -> None:
    body = pb.JoinRequest.FromString(REQUEST).body
    with pytest.raises(IdentityError, match="plain encoding"):
        open_request(_signed(body + b"\x52\x01x"), now_ms=NOW)
    with pytest.raises(IdentityError, match="plain encoding"):
        open_request(REQUEST + b"\x22\x01x", now_ms=NOW)


def test_a_request_is_good_for_thirty_days_and_may_be_five_minutes_ahead() -> None:
    for now_ms in (NOW + 30 * DAY, NOW - 300_000):
        assert open_request(REQUEST, now_ms=now_ms)
    with pytest.raises(IdentityError, match="the join request is stale"):
        open_request(REQUEST, now_ms=NOW + 30 * DAY + 1)
    with pytest.raises(IdentityError, match="the join request is from the future; got 300001 ms ahead"):
        open_request(REQUEST, now_ms=NOW - 300_001)


def test_a_request_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(IdentityError, match="too long; got 16385 bytes; expected at most 16384"):
        open_request(bytes(MAX_REQUEST_BYTES + 1), now_ms=NOW)


# --- the authority's statement ---


def test_the_authority_says_which_keys_the_server_holds() -> None:
    assert vouched_server(STATEMENT, AUTHORITY.certificate, now_ms=NOW) == SERVER.peer


def test_a_statement_by_another_authority_of_the_same_name_is_refused() -> None:
    with pytest.raises(IdentityError, match="not by this authority"):
        vouched_server(STATEMENT, create_authority(FEDERATION).certificate, now_ms=NOW)


def test_a_statement_holds_until_its_end() -> None:
    short = vouch(AUTHORITY, SERVER.peer, now_ms=NOW, lifetime=dt.timedelta(hours=1))
    assert vouched_server(short, AUTHORITY.certificate, now_ms=NOW + 3_599_999)
    with pytest.raises(IdentityError, match="statement is over"):
        vouched_server(short, AUTHORITY.certificate, now_ms=NOW + 3_600_000)
    with pytest.raises(IdentityError, match="lifetime"):
        vouch(AUTHORITY, SERVER.peer, now_ms=NOW, lifetime=dt.timedelta(0))


def test_only_a_server_of_the_federation_is_vouched_for() -> None:
    with pytest.raises(IdentityError, match="role does not match"):
        vouch(AUTHORITY, PRADO.public.peer, now_ms=NOW)
    stranger = dataclasses.replace(SERVER.peer, id=SpiffeId("other.example", Role.SERVER, "hub"))
    with pytest.raises(IdentityError, match="federation does not match"):
        vouch(AUTHORITY, stranger, now_ms=NOW)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version does not match"),
        ("spiffe_id", str(PRADO.id), "role does not match"),
        ("spiffe_id", "spiffe://other.example/server/hub", "federation does not match"),
        ("verify", b"", "no Ed25519 public key"),
        ("sealing", b"", "no MLKEM768-X25519 public key"),
        ("expires_at_ms", 0, "is over"),
    ],
)
def test_a_statement_that_breaks_the_rules_is_refused_even_from_the_authority(
    field: str, value: object, message: str
) -> None:
    body = pb.ServerKeys.FromString(pb.AuthorityStatement.FromString(STATEMENT).body)
    setattr(body, field, value)
    raw = body.SerializeToString()
    signature = AUTHORITY.key.sign(joined(statement._DOMAIN, raw), ec.ECDSA(hashes.SHA256()))
    forged = pb.AuthorityStatement(body=raw, signature=signature).SerializeToString()
    with pytest.raises(IdentityError, match=message):
        vouched_server(forged, AUTHORITY.certificate, now_ms=NOW)


@settings(max_examples=150)
@given(_differently(STATEMENT))
def test_a_changed_statement_is_refused(changed: bytes) -> None:
    with pytest.raises(IdentityError):
        vouched_server(changed, AUTHORITY.certificate, now_ms=NOW)


# --- what a grant says ---


def _grant(member: Newcomer = PRADO.public, **changes: Any) -> bytes:  # noqa: ANN401  a field of any type
    fields: dict[str, Any] = {
        "certificate": CERTIFICATE,
        "authority": AUTHORITY.certificate,
        "statement": STATEMENT,
        "roster": ROSTER,
        "settings": SETTINGS,
        "sender": SERVER,
        "now_ms": NOW,
    }
    return make_grant(member, **fields | changes)


def _open(grant: bytes, keys: MemberKeys = PRADO, *, now_ms: int = NOW) -> Grant:
    return open_grant(grant, keys=keys, authority=PINNED, now_ms=now_ms)


GRANT = _grant()


def test_a_newcomer_who_asked_gets_all_that_was_granted() -> None:
    request: JoinRequest = open_request(REQUEST, now_ms=NOW)
    opened = _open(_grant(request.member))
    assert opened.member == PRADO.public
    assert opened.certificate == CERTIFICATE
    assert opened.authority == AUTHORITY.certificate
    assert opened.server == SERVER.peer
    assert opened.roster == ROSTER
    assert opened.settings == SETTINGS
    assert opened.created_at_ms == NOW


def test_an_empty_roster_and_no_settings_arrive() -> None:
    opened = _open(_grant(roster=b"", settings={}))
    assert (opened.roster, opened.settings) == (b"", {})


def test_only_the_holder_of_the_sealing_key_can_open_a_grant() -> None:
    """So a request with somebody else's sealing key gets its sender nothing."""
    theirs = dataclasses.replace(PRADO.identity, sealing=UFFIZI.identity.sealing)
    posing = dataclasses.replace(PRADO, identity=theirs)
    for_the_posed = _grant(posing.public)
    with pytest.raises(IdentityError, match="fingerprint that the grant is for does not match"):
        _open(for_the_posed)
    wire = pb.Grant.FromString(for_the_posed)
    with pytest.raises(IdentityError, match="seal does not open"):
        _open(pb.Grant(header=pb.Grant.FromString(GRANT).header, sealed=wire.sealed).SerializeToString())


def test_nothing_of_a_grant_but_whose_it_is_can_be_seen() -> None:
    assert b"the roster, opaque" not in GRANT
    assert b"hub.example" not in GRANT
    assert CERTIFICATE.public_bytes(serialization.Encoding.DER)[-60:] not in GRANT


def test_every_byte_of_a_grant_is_guarded() -> None:
    for at in range(len(GRANT)):
        changed = bytearray(GRANT)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(IdentityError):
            _open(bytes(changed))


@settings(max_examples=200)
@given(_differently(GRANT))
def test_a_changed_grant_is_refused(changed: bytes) -> None:
    with pytest.raises(IdentityError):
        _open(changed)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_no_grant(data: bytes) -> None:
    header = pb.Grant.FromString(GRANT).header
    forged = (pb.Grant(header=data, sealed=data), pb.Grant(header=header, sealed=data))
    for candidate in (data, *(one.SerializeToString() for one in forged)):
        with pytest.raises(IdentityError):
            _open(candidate)


def test_a_grant_for_another_site_says_whose_it_is() -> None:
    certificate = AUTHORITY.issue(UFFIZI.id, UFFIZI.tls.public_key())
    with pytest.raises(IdentityError, match=f"recipient does not match; got '{UFFIZI.id}'; expected {PRADO.id}"):
        _open(_grant(UFFIZI.public, certificate=certificate))


def test_a_grant_for_another_role_is_refused() -> None:
    auditor = _other_name(PRADO, SpiffeId(FEDERATION, Role.AUDITOR, "prado"))
    certificate = AUTHORITY.issue(auditor.id, auditor.tls.public_key())
    with pytest.raises(IdentityError, match=r"recipient does not match; got 'spiffe://atelier\.example/auditor/prado'"):
        _open(_grant(auditor.public, certificate=certificate))


def test_a_grant_for_keys_that_were_replaced_is_refused() -> None:
    fresh = MemberKeys.generate(PRADO.id)
    with pytest.raises(IdentityError, match="fingerprint that the grant is for does not match"):
        _open(GRANT, fresh)


def test_a_grant_by_another_authority_is_refused() -> None:
    """Whole and consistent, by an authority that calls itself the same."""
    impostor = create_authority(FEDERATION)
    grant = _grant(
        certificate=impostor.issue(PRADO.id, PRADO.tls.public_key()),
        authority=impostor.certificate,
        statement=vouch(impostor, SERVER.peer, now_ms=NOW),
    )
    with pytest.raises(IdentityError, match="the authority's fingerprint does not match"):
        _open(grant)
    assert open_grant(
        grant, keys=PRADO, authority=certificate_fingerprint(impostor.certificate), now_ms=NOW
    )  # but whoever pinned that one


def test_a_grant_of_another_federation_is_refused() -> None:
    other = "other.example"
    authority = create_authority(other)
    server = Identity.generate(SpiffeId(other, Role.SERVER, "hub"))
    keys = _other_name(PRADO, SpiffeId(other, Role.SITE, "prado"))
    grant = _grant(
        keys.public,
        certificate=authority.issue(keys.id, keys.tls.public_key()),
        authority=authority.certificate,
        statement=vouch(authority, server.peer, now_ms=NOW),
        sender=server,
    )
    pinned = certificate_fingerprint(authority.certificate)
    assert open_grant(grant, keys=keys, authority=pinned, now_ms=NOW).member == keys.public
    with pytest.raises(IdentityError, match=r"got 'spiffe://other\.example/site/prado'"):
        open_grant(grant, keys=PRADO, authority=pinned, now_ms=NOW)


def test_a_grant_is_good_for_thirty_days_and_may_be_five_minutes_ahead() -> None:
    assert _open(GRANT, now_ms=NOW + 30 * DAY)
    with pytest.raises(IdentityError, match="the grant is stale"):
        _open(GRANT, now_ms=NOW + 30 * DAY + 1)
    with pytest.raises(IdentityError, match="the grant is from the future"):
        _open(GRANT, now_ms=NOW - 300_001)


def test_a_certificate_that_is_over_is_refused() -> None:
    grant = _grant(certificate=AUTHORITY.issue(PRADO.id, PRADO.tls.public_key(), lifetime=dt.timedelta(days=1)))
    assert _open(grant)
    with pytest.raises(IdentityError, match="the certificate does not hold now"):
        _open(grant, now_ms=NOW + 2 * DAY)


def test_a_statement_that_is_over_is_refused_with_its_grant() -> None:
    grant = _grant(statement=vouch(AUTHORITY, SERVER.peer, now_ms=NOW, lifetime=dt.timedelta(days=1)))
    with pytest.raises(IdentityError, match="statement is over"):
        _open(grant, now_ms=NOW + 2 * DAY)


def _forged(signer: Identity = SERVER, /, header: bytes = b"", settings_text: str = "{}", **terms: bytes) -> bytes:
    """Write a grant that :func:`make_grant` would not: sealed to the newcomer, as anybody can."""
    header = header or pb.Grant.FromString(GRANT).header
    fields = {
        "certificate": CERTIFICATE.public_bytes(serialization.Encoding.DER),
        "authority": AUTHORITY.certificate.public_bytes(serialization.Encoding.DER),
        "statement": STATEMENT,
        "roster": ROSTER,
    }
    raw = pb.GrantTerms(settings=settings_text, **fields | terms).SerializeToString()
    signature = signer.signing.sign(joined(grant_module._SIGNATURE_DOMAIN, header, raw))
    content = pb.GrantContent(terms=raw, signature=signature).SerializeToString()
    sealed = PRADO.identity.sealing.public.seal(content, joined(grant_module._SEAL_DOMAIN, header))
    return pb.Grant(header=header, sealed=sealed).SerializeToString()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def test_the_forging_of_these_tests_makes_good_grants_too() -> None:
    assert _open(_forged()).member == PRADO.public


def test_a_grant_signed_by_anybody_but_the_vouched_server_is_refused() -> None:
    for signer in (UFFIZI.identity, Identity.generate(SERVER.id)):
        with pytest.raises(IdentityError, match="signature is not by the server that the authority vouches for"):
            _open(_forged(signer))


def test_a_server_vouched_for_by_another_authority_is_refused() -> None:
    posing = Identity.generate(SERVER.id)
    other = vouch(create_authority(FEDERATION), posing.peer, now_ms=NOW)
    with pytest.raises(IdentityError, match="not by this authority"):
        _open(_forged(posing, statement=other))


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        (AUTHORITY.issue(PRADO.id, UFFIZI.tls.public_key()), "for another TLS key"),
        (AUTHORITY.issue(UFFIZI.id, PRADO.tls.public_key()), "certificate's name does not match"),
        (
            AUTHORITY.issue(SpiffeId(FEDERATION, Role.OPERATOR, "prado"), PRADO.tls.public_key()),
            "certificate's name does not match; got .*operator/prado; expected .*site/prado",
        ),
        (create_authority(FEDERATION).issue(PRADO.id, PRADO.tls.public_key()), "not issued by this authority"),
        (create_authority("b.example").issue(
            SpiffeId("b.example", Role.SITE, "prado"), PRADO.tls.public_key()), "not issued by this authority"),
        (AUTHORITY.certificate, "names nobody"),
    ],
    ids=["key", "site", "role", "authority", "federation", "root"],
)  # fmt: skip
def test_a_certificate_that_is_not_exactly_the_newcomers_is_refused_by_both_ends(
    certificate: x509.Certificate, message: str
) -> None:
    with pytest.raises(IdentityError, match=message):
        _grant(certificate=certificate)
    with pytest.raises(IdentityError, match=message):
        _open(_forged(certificate=_der(certificate)))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"certificate": b""}, "certificate cannot be read"),
        ({"certificate": b"0\x03\x02\x01\x01"}, "certificate cannot be read"),
        ({"authority": b""}, "authority's fingerprint does not match"),
        ({"authority": _der(CERTIFICATE)}, "authority's fingerprint does not match"),
        ({"statement": b""}, "not by this authority"),
        ({"statement": b"nonsense"}, "statement"),
    ],
)
def test_terms_that_cannot_be_read_are_refused_even_from_the_server(terms: dict[str, Any], message: str) -> None:
    with pytest.raises(IdentityError, match=message):
        _open(_forged(**terms))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000])
def test_settings_that_are_no_json_object_are_refused(text: str) -> None:
    with pytest.raises(IdentityError, match="settings cannot be read"):
        _open(_forged(settings_text=text))


def test_an_authority_for_another_federation_is_refused_even_if_it_is_pinned() -> None:
    """A root that may not name this newcomer."""
    other = create_authority("other.example")
    with pytest.raises(IdentityError, match="authority's federation does not match"):
        open_grant(
            _forged(authority=_der(other.certificate), statement=vouch(
                other, dataclasses.replace(SERVER.peer, id=SpiffeId("other.example", Role.SERVER, "hub")), now_ms=NOW
            )),
            keys=PRADO, authority=certificate_fingerprint(other.certificate), now_ms=NOW,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version does not match"),
        ("recipient", "", "recipient does not match"),
        ("recipient", "\x1b[31m", "recipient does not match"),
        ("fingerprint", b"", "fingerprint that the grant is for does not match"),
        ("created_at_ms", 2**64 - 1, "from the future"),
    ],
)
def test_a_header_that_breaks_the_rules_is_refused_even_from_the_server(
    field: str, value: object, message: str
) -> None:
    header = pb.GrantHeader.FromString(pb.Grant.FromString(GRANT).header)
    setattr(header, field, value)
    with pytest.raises(IdentityError, match=message) as caught:
        _open(_forged(header=header.SerializeToString()))
    assert str(caught.value).isprintable()


def test_a_grant_sealed_again_under_another_header_is_refused() -> None:
    """The signature covers the header: what the server said at one time is not said at another."""
    header = pb.GrantHeader.FromString(pb.Grant.FromString(GRANT).header)
    header.created_at_ms += 1
    clear = header.SerializeToString()
    wire = pb.Grant.FromString(GRANT)
    plain = PRADO.identity.sealing.unseal(wire.sealed, joined(grant_module._SEAL_DOMAIN, wire.header))
    sealed = PRADO.public.sealing.seal(plain, joined(grant_module._SEAL_DOMAIN, clear))
    with pytest.raises(IdentityError, match="signature is not by the server"):
        _open(pb.Grant(header=clear, sealed=sealed).SerializeToString())


# --- what no server writes ---


def test_a_grant_that_the_newcomer_would_not_believe_is_not_written() -> None:
    with pytest.raises(IdentityError, match="about other keys than the server's"):
        _grant(sender=Identity.generate(SERVER.id))
    with pytest.raises(IdentityError, match="statement is over"):
        _grant(statement=vouch(AUTHORITY, SERVER.peer, now_ms=NOW - DAY, lifetime=dt.timedelta(hours=1)))


def test_settings_that_json_cannot_say_are_refused() -> None:
    for bad in ({"a": float("nan")}, {"a": b"bytes"}, {"a": {1, 2}}):
        with pytest.raises(IdentityError, match="cannot be said in JSON"):
            _grant(settings=bad)


def test_a_grant_over_the_limit_is_refused_by_both_ends() -> None:
    with pytest.raises(IdentityError, match="too long for a grant"):
        _grant(roster=bytes(MAX_GRANT_BYTES))
    with pytest.raises(IdentityError, match="the grant is too long"):
        _open(bytes(MAX_GRANT_BYTES + 1))


def test_a_sealing_key_that_nothing_can_be_sealed_to_gets_no_grant() -> None:
    """An X25519 point of small order makes the same secret for everybody (RFC 7748, 6.1)."""
    bad = SealingPublicKey(PRADO.public.sealing.raw[:1184] + bytes(32))
    with pytest.raises(IdentityError, match="nothing can be sealed"):
        _grant(dataclasses.replace(PRADO.public, sealing=bad))
