"""Fingerprints: what people compare."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import IdentityError
from security.authority import create_authority
from security.fingerprint import Fingerprint, certificate_fingerprint, fingerprint

DOMAIN = b"bottega/v1/test\x00"


def test_the_words_are_the_first_88_bits_in_the_list_of_bip_39() -> None:
    """BIP-39's list begins abandon, ability, able and ends zone, zoo; its own vectors use letter and advice so."""
    assert Fingerprint(bytes(32)).words == "abandon " * 7 + "abandon"
    assert Fingerprint(b"\xff" * 32).words == "zoo " * 7 + "zoo"
    assert Fingerprint(bytes(10) + b"\x01" + bytes(21)).words == "abandon " * 7 + "ability"
    assert Fingerprint(b"\x80" * 32).words == "letter advice cage absurd amount doctor acoustic avoid"
    assert Fingerprint(bytes(11) + b"\xff" * 21).words == Fingerprint(bytes(32)).words


def test_a_person_reads_sixteen_groups_of_four_digits() -> None:
    assert Fingerprint(bytes(range(32))).hex == (
        "0001 0203 0405 0607 0809 0a0b 0c0d 0e0f 1011 1213 1415 1617 1819 1a1b 1c1d 1e1f"
    )


def test_a_fingerprint_is_the_sha256_of_the_parts_with_their_lengths() -> None:
    expected = hashlib.sha256(DOMAIN + bytes(7) + b"\x02ab" + bytes(8)).digest()
    assert fingerprint(DOMAIN, b"ab", b"").digest == expected


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_other_parts_have_another_fingerprint_wherever_they_are_cut(one: list[bytes], other: list[bytes]) -> None:
    assert (fingerprint(DOMAIN, *one) == fingerprint(DOMAIN, *other)) == (one == other)


@given(st.binary(min_size=32, max_size=32))
def test_there_are_always_eight_words_of_plain_letters(digest: bytes) -> None:
    words = Fingerprint(digest).words.split(" ")
    assert len(words) == 8
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_what_has_another_length_is_no_fingerprint(size: int) -> None:
    with pytest.raises(IdentityError, match=f"got {size} bytes; expected 32 bytes"):
        Fingerprint(bytes(size))


def test_a_certificate_has_the_fingerprint_that_openssl_prints() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = create_authority("atelier.example").certificate
    assert (
        certificate_fingerprint(certificate).digest == hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()
    )
