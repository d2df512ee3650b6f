"""Invitations: the token says what it said, or is refused with the reason."""

from __future__ import annotations

import base64
import dataclasses
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IdentityError
from common.proto import enrolment_pb2 as pb
from security.fingerprint import Fingerprint
from security.invitation import Invitation, matches, secret_hash
from security.names import Role, SpiffeId

NOW = 1_800_000_000_000
SITE = SpiffeId("atelier.example", Role.SITE, "prado")
PINNED = Fingerprint(bytes(range(32)))
INVITATION = Invitation(SITE, "hub.example:8442", PINNED, b"i" * 16, b"secret, 32 bytes, seen by nobody", NOW)
TOKEN = INVITATION.token()
PREFIX = "bottega_invitation_v1_"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def _token(record: bytes) -> str:
    """Write a token of any record, with the right checksum."""
    checksum = zlib.crc32(PREFIX.encode() + record).to_bytes(4, "big")
    return PREFIX + base64.urlsafe_b64encode(record + checksum).rstrip(b"=").decode()


# --- what arrives ---


def test_a_token_is_one_line_that_says_all_of_the_invitation() -> None:
    assert TOKEN.startswith(PREFIX)
    assert set(TOKEN.removeprefix(PREFIX)) <= set(ALPHABET)
    again = Invitation.parse(TOKEN)
    assert again == INVITATION
    assert (again.federation, again.role, again.name) == ("atelier.example", Role.SITE, "prado")


def test_a_token_of_the_first_version_is_still_read() -> None:
    """Made once, and kept."""
    kept = (
        "bottega_invitation_v1_CiNzcGlmZmU6Ly9hdGVsaWVyLmV4YW1wbGUvc2l0ZS9wcmFkbxIQaHViLmV4YW1wbGU6ODQ0MhogAA"
        "ECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8iEGlpaWlpaWlpaWlpaWlpaWkqIHNlY3JldCwgMzIgYnl0ZXMsIHNlZW4gYn"
        "kgbm9ib2R5MICg8cKxNLv0vwE"
    )
    assert Invitation.parse(kept) == INVITATION
    assert kept == TOKEN


def test_every_invitation_has_an_id_and_a_secret_of_its_own() -> None:
    one, other = (Invitation.create(SITE, "hub.example:8442", PINNED, NOW) for _ in range(2))
    assert one.id != other.id
    assert one.secret != other.secret
    assert (len(one.id), len(one.secret)) == (16, 32)
    assert Invitation.parse(one.token()) == one


@pytest.mark.parametrize(
    "pasted",
    [
        f"  {TOKEN}\n",
        f"\t{TOKEN[:30]}\n{TOKEN[30:90]}\r\n    {TOKEN[90:]}\n\n",
        " ".join(TOKEN),
        f"\u00a0{TOKEN}\u2003",
    ],
    ids=["around", "folded", "between all", "of a mail"],
)
def test_spaces_and_line_breaks_from_pasting_count_for_nothing(pasted: str) -> None:
    assert Invitation.parse(pasted) == INVITATION


@pytest.mark.parametrize("role", [Role.SITE, Role.OPERATOR, Role.AUDITOR])
@pytest.mark.parametrize("address", ["localhost:1", "10.0.0.1:65535", "[2001:db8::1]:8442", "my_hub:8442"])
def test_any_newcomer_and_address_arrive(role: Role, address: str) -> None:
    invitation = Invitation.create(SpiffeId("a.example", role, "p"), address, PINNED, 0)
    assert Invitation.parse(invitation.token()) == invitation


def test_the_longest_names_still_fit_a_token() -> None:
    federation = ".".join(["a" * 63] * 3 + ["a" * 61])
    longest = Invitation.create(SpiffeId(federation, Role.OPERATOR, "p" * 63), "h" * 253 + ":65535", PINNED, 2**63 - 1)
    assert Invitation.parse(longest.token()) == longest


# --- what is refused ---


@given(at=st.integers(0, len(TOKEN) - 1), other=st.characters())
def test_a_changed_character_anywhere_is_refused(at: int, other: str) -> None:
    changed = TOKEN[:at] + other + TOKEN[at + 1 :]
    if changed != TOKEN:
        with pytest.raises(IdentityError):
            Invitation.parse(changed)


def test_every_single_slip_is_told_as_mistyped() -> None:
    """Each place once, whole: another character, one left out, one twice, two exchanged."""
    for at in range(len(PREFIX), len(TOKEN)):
        here, rest = TOKEN[at], TOKEN[at + 1 :]
        other = ALPHABET[(ALPHABET.index(here) + 1) % 64]
        slips = [TOKEN[:at] + other + rest, TOKEN[:at] + rest, TOKEN[:at] + here * 2 + rest]
        slips += [TOKEN[:at] + rest[0] + here + rest[1:]] if rest and rest[0] != here else []
        for slip in slips:
            with pytest.raises(IdentityError, match="mistyped or truncated"):
                Invitation.parse(slip)


@pytest.mark.parametrize("length", range(len(PREFIX) + 1, len(TOKEN)))
def test_a_token_cut_off_anywhere_is_told_as_truncated(length: int) -> None:
    with pytest.raises(IdentityError, match="mistyped or truncated"):
        Invitation.parse(TOKEN[:length])


@given(at=st.integers(0, len(TOKEN)), more=st.text(st.sampled_from(ALPHABET), min_size=1, max_size=40))
def test_characters_put_in_anywhere_are_refused(at: int, more: str) -> None:
    with pytest.raises(IdentityError):
        Invitation.parse(TOKEN[:at] + more + TOKEN[at:])


@given(st.text())
def test_any_text_is_refused_in_words_that_do_not_repeat_it(text: str) -> None:
    for candidate in (text, PREFIX + text, TOKEN + text + "=", f"bottega_invitation_v{text}_{text}"):
        with pytest.raises(IdentityError) as caught:
            Invitation.parse(candidate)
        assert str(caught.value).isascii()
        assert str(caught.value).isprintable()


@given(st.binary(max_size=200))
def test_any_record_under_a_good_checksum_is_refused_in_words(record: bytes) -> None:
    with pytest.raises(IdentityError):
        Invitation.parse(_token(record))


@pytest.mark.parametrize("text", ["", " \n ", "prado", TOKEN.upper(), TOKEN[1:], PREFIX[:-1], "ssh-ed25519 AAAA"])
def test_what_is_no_token_is_told_so(text: str) -> None:
    with pytest.raises(IdentityError, match="this is no invitation"):
        Invitation.parse(text)


@pytest.mark.parametrize("text", ["x" * 10_000_000, " " * 10_000_000, TOKEN + " " * 10_000, TOKEN + "A" * 2048])
def test_a_text_that_is_far_too_long_is_not_read_through(text: str) -> None:
    with pytest.raises(IdentityError, match="no invitation"):
        Invitation.parse(text)


def test_a_token_of_another_version_is_told_from_a_mistyped_one() -> None:
    with pytest.raises(IdentityError, match=r"another version; got 2; expected 1\. Install"):
        Invitation.parse(TOKEN.replace("_v1_", "_v2_"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("spiffe_id", "spiffe://atelier.example/server/hub", "a server is not invited"),
        ("spiffe_id", "prado", "no SPIFFE id"),
        ("address", "hub.example", "no address"),
        ("authority", b"short", "no fingerprint"),
        ("id", b"short", "id has another length; got 5; expected 16"),
        ("secret", b"", "secret has another length; got 0; expected 32"),
        ("expires_at_ms", 2**63, "out of range"),
    ],
)
def test_a_whole_token_that_breaks_the_rules_is_refused_by_name(field: str, value: object, message: str) -> None:
    record = pb.Invitation.FromString(base64.urlsafe_b64decode(TOKEN.removeprefix(PREFIX) + "=" * 3)[:-4])
    setattr(record, field, value)
    with pytest.raises(IdentityError, match=message):
        Invitation.parse(_token(record.SerializeToString()))


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hub",
        "hub:",
        ":8442",
        "hub:0",
        "hub:65536",
        "hub:08442",
        "hub:8442\n",
        "https://hub:8442",
        "-hub:8442",
        "hub:8442/x",
        "2001:db8::1:8442",
        "[::g]:8442",
        "[1:2]:8442",
        "hüb:8442",
        "h" * 254 + ":1",
    ],
)
def test_what_is_no_address_is_not_invited_to(address: str) -> None:
    with pytest.raises(IdentityError, match="no address of a join service"):
        dataclasses.replace(INVITATION, address=address)


# --- the secret ---


def test_the_secret_is_not_printed() -> None:
    for printed in (repr(INVITATION), str(INVITATION)):
        assert "seen by nobody" not in printed
        assert INVITATION.secret.hex() not in printed


def test_what_the_store_keeps_matches_this_secret_of_this_invitation_alone() -> None:
    kept = secret_hash(INVITATION.id, INVITATION.secret)
    assert len(kept) == 32
    assert matches(kept, INVITATION.id, INVITATION.secret)
    assert not matches(kept, INVITATION.id, bytes(32))
    assert not matches(kept, b"j" * 16, INVITATION.secret)
    assert not matches(kept, INVITATION.id, b"")
    assert not matches(kept, INVITATION.id, kept)
    assert not matches(b"", INVITATION.id, INVITATION.secret)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_only_the_secret_matches(invitation_id: bytes, secret: bytes) -> None:
    kept = secret_hash(INVITATION.id, INVITATION.secret)
    assert matches(kept, invitation_id, secret) == ((invitation_id, secret) == (INVITATION.id, INVITATION.secret))


def test_an_invitation_is_over_from_its_end_on() -> None:
    assert not INVITATION.expired(NOW - 1)
    assert INVITATION.expired(NOW)
