"""Names, keys, certificates and pins."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import json
import ssl
import stat
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IdentityError, VaultError
from security.identity import (
    Authority,
    Identity,
    Peer,
    Role,
    SealingKey,
    SealingPublicKey,
    SigningKey,
    SpiffeId,
    VerifyKey,
    certified_id,
    create_authority,
    create_supernode_key,
    create_tls_key,
    load_certificate,
    save_certificate,
)
from security.keys import load_tls_key, pkcs8_pem
from tests.unit.kept import kept

if TYPE_CHECKING:
    from pathlib import Path

SITE = SpiffeId("atelier.example", Role.SITE, "prado")
SERVER = SpiffeId("atelier.example", Role.SERVER, "hub")


# --- names ---


def test_a_spiffe_id_is_written_and_read_back_the_same() -> None:
    assert str(SITE) == "spiffe://atelier.example/site/prado"
    assert SpiffeId.parse("spiffe://atelier.example/site/prado") == SITE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "prado",
        "https://atelier.example/site/prado",
        "SPIFFE://atelier.example/site/prado",
        "spiffe://atelier.example/site",
        "spiffe://atelier.example/site/prado/",
        "spiffe://atelier.example/site/prado/x",
        "spiffe://atelier.example/painter/prado",
        "spiffe://atelier.example/site/Prado",
        "spiffe://atelier.example/site/-prado",
        "spiffe://atelier.example/site/prado-",
        "spiffe://atelier.example/site/pra_do",
        "spiffe://atelier.example/site/..",
        "spiffe://atelier.example/site/prado\n",
        "spiffe://atelier.example/site/prado?x=1",
        "spiffe://atelier.example/site/" + "p" * 64,
        "spiffe://Atelier.example/site/prado",
        "spiffe://atelier..example/site/prado",
        "spiffe://atelier.example:8440/site/prado",
        "spiffe://me@atelier.example/site/prado",
        "spiffe:///site/prado",
        "spiffe://" + ".".join(["a" * 63] * 4) + "/site/prado",
        "spiffe://atelier.example/site/pràdo",
        "spiffe://atelier.example/site/prado٣",
    ],
)
def test_what_is_no_spiffe_id_of_ours_is_refused(text: str) -> None:
    with pytest.raises(IdentityError):
        SpiffeId.parse(text)


@given(st.text())
def test_any_text_is_an_id_with_one_spelling_or_an_identity_error(text: str) -> None:
    for candidate in (text, f"spiffe://a/site/{text}", f"spiffe://{text}/site/a"):
        try:
            parsed = SpiffeId.parse(candidate)
        except IdentityError as error:
            printed = str(error)
        else:
            assert str(parsed) == candidate
            printed = candidate
        assert printed.isascii()  # a stranger's text is escaped before it is printed
        assert printed.isprintable()


# --- keys ---


def test_a_signature_holds_for_its_message_and_key_only() -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    signature = key.sign(b"a line")
    assert len(signature) == 64
    assert key.public.verifies(signature, b"a line")
    assert not key.public.verifies(signature, b"a lime")
    assert not other.public.verifies(signature, b"a line")
    assert not key.public.verifies(b"", b"a line")
    assert not key.public.verifies(signature + b"\0", b"a line")


def test_signing_is_ed25519_of_rfc_8032() -> None:
    """RFC 8032, 7.1, test 2."""
    key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public.raw.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    assert key.sign(b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )


def test_a_sealing_seed_expands_to_the_key_pair_of_the_x_wing_specification() -> None:
    """draft-connolly-cfrg-xwing-kem-08, appendix C, first vector: the seed, and the two ends of its public key."""
    key = SealingKey(bytes.fromhex("7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"))
    public = key.public.raw
    assert len(public) == 1216
    assert public[:36].hex() == "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5b19cfc3d"
    assert public[-28:].hex() == "eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534"


def test_fingerprints_are_the_sha256_of_the_raw_public_key() -> None:
    identity = Identity.generate(SITE)
    for public in (identity.peer.verify, identity.peer.sealing):
        assert public.fingerprint == hashlib.sha256(public.raw).hexdigest()


def test_no_secret_is_printed() -> None:
    identity = Identity.generate(SITE)
    printed = repr(identity) + str(identity)
    for secret in (identity.signing.seed, identity.sealing.seed):
        assert secret.hex() not in printed
        assert repr(secret) not in printed


@pytest.mark.parametrize("make", [SigningKey, SealingKey, VerifyKey, SealingPublicKey])
@pytest.mark.parametrize("raw", [b"", b"short", bytes(33), bytes(1217)])
def test_a_key_of_the_wrong_length_is_refused(
    make: type[SigningKey | SealingKey | VerifyKey | SealingPublicKey], raw: bytes
) -> None:
    with pytest.raises(IdentityError, match="bytes"):
        make(raw)


def test_a_sealing_public_key_out_of_range_is_refused() -> None:
    """FIPS 203, 7.2: every coefficient of an encapsulation key is below 3329."""
    with pytest.raises(IdentityError, match="no MLKEM768-X25519 public key"):
        SealingPublicKey(b"\xff" * 1216)


def test_keys_are_kept_for_their_owner_only_and_read_back(tmp_path: Path) -> None:
    identity = Identity.generate(SITE)
    identity.save(kept(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sealing.key", "signing.key"]
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Identity.load(kept(tmp_path), SITE) == identity


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    first = Identity.generate(SITE)
    first.save(kept(tmp_path))
    with pytest.raises(VaultError, match="already exists"):
        Identity.generate(SITE).save(kept(tmp_path))
    assert Identity.load(kept(tmp_path), SITE) == first
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sealing.key", "signing.key"]


def test_a_private_key_cannot_be_read_on_the_disk(tmp_path: Path) -> None:
    identity = Identity.generate(SITE)
    identity.save(kept(tmp_path))
    secret = pkcs8_pem(create_tls_key(kept(tmp_path), "tls.key"))
    on_disk = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    for part in (identity.signing.seed, identity.sealing.seed, secret[28:60], b"PRIVATE KEY"):
        assert part not in on_disk


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    Identity.generate(SITE).save(kept(tmp_path))
    (tmp_path / "sealing.key").chmod(mode)
    with pytest.raises(VaultError, match=f"mode {mode:04o}; expected mode 0600"):
        Identity.load(kept(tmp_path), SITE)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_damaged_key_file_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    for name in ("signing.key", "tls.key"):
        folder = kept(tmp_path)
        (folder.path / name).write_bytes(content)
        (folder.path / name).chmod(0o600)
        with pytest.raises(VaultError, match="no file of a vault"):
            folder.read(name)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_kept_as_a_key_and_is_none_is_refused_in_words(tmp_path: Path, content: bytes) -> None:
    folder = kept(tmp_path)
    folder.keep("tls.key", content)
    with pytest.raises(IdentityError, match="another kind of key"):
        load_tls_key(folder, "tls.key")


def test_one_kind_of_key_is_not_taken_for_another(tmp_path: Path) -> None:
    Identity.generate(SITE).save(kept(tmp_path))
    for taken, other in (("signing.key", "sealing.key"), ("sealing.key", "signing.key")):
        (tmp_path / "copy").write_bytes((tmp_path / other).read_bytes())
        (tmp_path / "copy").replace(tmp_path / taken)
        (tmp_path / taken).chmod(0o600)
        with pytest.raises(VaultError, match="is another file"):
            Identity.load(kept(tmp_path), SITE)


def test_a_missing_folder_or_file_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="No such file"):
        Identity.generate(SITE).save(kept(tmp_path / "nowhere"))
    with pytest.raises(VaultError, match="No such file"):
        Identity.load(kept(tmp_path), SITE)


def test_a_supernode_key_is_p384_in_openssh_format_with_its_public_file(tmp_path: Path) -> None:
    path = tmp_path / "supernode"
    create_supernode_key(path)
    private = serialization.load_ssh_private_key(path.read_bytes(), None)
    public = serialization.load_ssh_public_key((tmp_path / "supernode.pub").read_bytes())
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    assert private.public_key() == public
    assert path.read_bytes().startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(IdentityError, match="already exists"):
        create_supernode_key(path)
    assert serialization.load_ssh_public_key((tmp_path / "supernode.pub").read_bytes()) == public


# --- certificates ---


def _leaf(authority: Authority, spiffe_id: SpiffeId) -> x509.Certificate:
    return authority.issue(spiffe_id, ec.generate_private_key(ec.SECP256R1()).public_key())


def test_a_server_certificate_says_who_it_is_and_where() -> None:
    authority = create_authority("atelier.example")
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    address = ipaddress.ip_address("127.0.0.1")
    leaf = authority.issue(SERVER, key, ["hub.example", "localhost"], [address], dt.timedelta(days=2))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.UniformResourceIdentifier("spiffe://atelier.example/server/hub"),
        x509.DNSName("hub.example"),
        x509.DNSName("localhost"),
        x509.IPAddress(address),
    ]
    assert certified_id(leaf) == SERVER
    assert leaf.public_key() == key
    leaf.verify_directly_issued_by(authority.certificate)
    left = leaf.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=2) - dt.timedelta(minutes=1) < left <= dt.timedelta(days=2)


def test_a_leaf_may_only_sign_and_only_in_its_part_of_tls() -> None:
    authority = create_authority("atelier.example")
    for spiffe_id, purpose in ((SERVER, ExtendedKeyUsageOID.SERVER_AUTH), (SITE, ExtendedKeyUsageOID.CLIENT_AUTH)):
        extensions = _leaf(authority, spiffe_id).extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert not constraints.value.ca
        usage = extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.digital_signature
        assert not usage.value.key_cert_sign
        assert not usage.value.key_agreement


def test_an_authority_issues_for_its_own_federation_only() -> None:
    stranger = SpiffeId("other.example", Role.SITE, "prado")
    with pytest.raises(IdentityError, match=r"got other\.example; expected atelier\.example"):
        _leaf(create_authority("atelier.example"), stranger)


def test_only_a_server_gets_dns_names() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(IdentityError, match="only a server"):
        create_authority("atelier.example").issue(SITE, key, ["prado.example"])


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_a_leaf_neither_ends_before_it_begins_nor_outlives_the_root(days: int) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(IdentityError, match="lifetime"):
        create_authority("atelier.example").issue(SITE, key, lifetime=dt.timedelta(days=days))


def test_a_tls_key_on_another_curve_is_refused() -> None:
    with pytest.raises(IdentityError, match="ECDSA P-256"):
        create_authority("atelier.example").issue(SITE, ec.generate_private_key(ec.SECP384R1()).public_key())


def test_a_federation_must_have_a_name() -> None:
    with pytest.raises(IdentityError, match="no name for a federation"):
        create_authority("not a name")


def test_an_authority_is_kept_and_read_back(tmp_path: Path) -> None:
    authority = create_authority("a-long-name." * 9 + "example")
    authority.save(kept(tmp_path))
    assert stat.S_IMODE((tmp_path / "authority.key").stat().st_mode) == 0o600
    again = Authority.load(kept(tmp_path))
    assert again.federation == authority.federation
    assert again.certificate == authority.certificate
    spiffe_id = SpiffeId(authority.federation, Role.SITE, "prado")
    _leaf(again, spiffe_id).verify_directly_issued_by(authority.certificate)
    with pytest.raises(VaultError, match="already exists"):
        create_authority("atelier.example").save(kept(tmp_path))
    assert Authority.load(kept(tmp_path)).certificate == authority.certificate


def test_a_key_and_a_certificate_of_two_authorities_are_refused(tmp_path: Path) -> None:
    create_authority("atelier.example").save(kept(tmp_path))
    save_certificate(tmp_path / "authority.pem", create_authority("atelier.example").certificate)
    with pytest.raises(IdentityError, match="do not belong together"):
        Authority.load(kept(tmp_path))


def test_what_is_no_certificate_of_the_federation_names_nobody(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="names nobody"):
        certified_id(create_authority("atelier.example").certificate)
    (tmp_path / "leaf.pem").write_bytes(b"no certificate")
    with pytest.raises(IdentityError, match="holds no certificate"):
        load_certificate(tmp_path / "leaf.pem")


def _context(folder: Path, authority: Authority, trusted: Authority, spiffe_id: SpiffeId) -> ssl.SSLContext:
    """Make one end of mutual TLS 1.3, as strict as OpenSSL can be."""
    serves = spiffe_id.role is Role.SERVER
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "tls.key").write_bytes(pkcs8_pem(key))
    save_certificate(folder / "tls.pem", authority.issue(spiffe_id, key.public_key(), ["localhost"] if serves else ()))
    save_certificate(folder / "root.pem", trusted.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "tls.pem", folder / "tls.key")
    context.load_verify_locations(folder / "root.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """Run a TLS handshake in memory and return the server's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[1]


def test_server_and_site_authenticate_each_other_over_tls_1_3(tmp_path: Path) -> None:
    authority = create_authority("atelier.example")
    server = _context(tmp_path / "server", authority, authority, SERVER)
    site = _context(tmp_path / "site", authority, authority, SITE)
    end = _shake_hands(server, site)
    assert end.version() == "TLSv1.3"
    peer = end.getpeercert(binary_form=True)
    assert peer is not None
    assert certified_id(x509.load_der_x509_certificate(peer)) == SITE


def test_a_certificate_of_another_root_of_the_same_name_is_refused_by_tls(tmp_path: Path) -> None:
    authority, impostor = create_authority("atelier.example"), create_authority("atelier.example")
    server = _context(tmp_path / "server", impostor, authority, SERVER)
    site = _context(tmp_path / "site", authority, authority, SITE)
    with pytest.raises(ssl.SSLCertVerificationError):
        _shake_hands(server, site)


def test_a_root_that_names_another_federation_is_refused_by_tls(tmp_path: Path) -> None:
    """The name constraint: a root's key in wrong hands cannot speak for another federation that trusts it."""
    authority = create_authority("atelier.example")
    wider = Authority("other.example", authority.certificate, authority.key)  # the same key, told to issue for others
    server = _context(tmp_path / "server", wider, authority, SpiffeId("other.example", Role.SERVER, "hub"))
    site = _context(tmp_path / "site", authority, authority, SITE)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        _shake_hands(server, site)


def test_a_site_cannot_pass_as_a_server_in_tls(tmp_path: Path) -> None:
    authority = create_authority("atelier.example")
    site = _context(tmp_path / "site", authority, authority, SITE)
    posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    posing.load_cert_chain(tmp_path / "site" / "tls.pem", tmp_path / "site" / "tls.key")
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _shake_hands(posing, site)


# --- pins ---


def test_somebody_who_is_pinned_is_read_back_and_never_replaced(tmp_path: Path) -> None:
    peer, file = Identity.generate(SERVER).peer, tmp_path / "server.json"
    peer.pin(file)
    peer.pin(file)  # again, the same: nothing happens
    assert Peer.pinned(file) == peer
    assert json.loads(file.read_bytes())["id"] == "spiffe://atelier.example/server/hub"
    with pytest.raises(IdentityError, match="left untouched"):
        Identity.generate(SERVER).peer.pin(file)
    assert Peer.pinned(file) == peer


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"id": "spiffe://a/server/b", "verify": "!", "sealing": ""}',
        b'{"id": "spiffe://a/server/b", "verify": "", "sealing": ""}',
        b'{"id": 1, "verify": "", "sealing": ""}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ],
)
def test_what_pins_nobody_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "server.json").write_bytes(content)
    with pytest.raises(IdentityError):
        Peer.pinned(tmp_path / "server.json")
