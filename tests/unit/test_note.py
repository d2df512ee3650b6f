"""Signed notes and checkpoints: as other programs of the same standards write and read them, and nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import LedgerError
from security.checkpoint import (
    Checkpoint,
    cosign,
    cosigner_key,
    cosigners,
    open_checkpoint,
    read_checkpoint,
    sign_checkpoint,
)
from security.keys import SigningKey
from security.merkle import EMPTY_ROOT
from security.note import (
    MOST_LINES,
    MOST_NOTE_BYTES,
    Line,
    NoteKey,
    SignatureKind,
    add_line,
    cosignature,
    open_note,
    read_line,
    sign_note,
    split_note,
)

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SECRET = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
SAYING = (
    b"If you think cryptography is the answer to your problem,\n"
    b"then you don't know what your problem is.\n"
)  # fmt: skip
PETERS_NOTE = (
    SAYING.decode()
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()
"""The key and the note of golang.org/x/mod/sumdb/note."""

TEST_LOG = "geomys.org/witness/test-log+c0787ff4+AeMb5VOzy60PTGdGmLPxOKGAa0jNyDGsgv2rnprGju1t"
TEST_LOG_NOTE = (
    "geomys.org/witness/test-log\n1\nBCml5C32yqMcl0gjTrcSOeNVx59oPnSdytBzDGBO5k0=\n\n— geomys.org/witness/test-log "
    "wHh/9BPsoBNr2x0Ol3qPBYasIN0HI2ZiBg5ac0v3LQq/7F+YO7U4oWbDeJn1VaWVrlbSEM30Gr7WWYQjj2SBxRoJ/Ao=\n"
).encode()
"""A checkpoint that is published for trying witnesses, and the key of its log."""

NAVIGLI = "witness.navigli.sunlight.geomys.org+a3e00fe2+BNy/co4C1Hn1p+INwJrfUlgz7W55dSZReusH/GhUhJ/G"
NAVIGLIS_NOTE = (
    "coachandhorses2026h1.staging.certificate.transparency.goog\n185550722\n"
    "YXAM0VmnrfvLaBCOOYSJhCaE5F10oGBOo+hkbDa1kng=\n\n"
    "— coachandhorses2026h1.staging.certificate.transparency.goog MpXgsHy8ZwxXnO+WjtVrPxAzL49Rs1gWTkNVNeEa//5peAzaocRCB"
    "3qt3EaibjzY5GILLtGgBP7dBhgcSHy+JQh0OAc=\n"
    "— witness.navigli.sunlight.geomys.org o+AP4gAAAABqb7DzNrGFRJnQ9vrJ8xpnwZytnr/ZYczDIsvwvouiSjwOjn7a72ccxBk+lKnZ7dKq"
    "kYKER1s/KxLTaVwQD7lJZTC/CQ==\n"
).encode()
"""A checkpoint of a log of certificates, cosigned by a public witness, and the key of the witness."""

SEED, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(32))
ORIGIN = "atelier.example/bottega"
SEEN = Checkpoint(ORIGIN, 3, bytes(range(32)))
NOTE = sign_checkpoint(SEEN, SEED)
names = st.from_regex(r"[a-z]+(\.[a-z]+)?(/[a-z-]+)?", fullmatch=True)


def test_the_published_note_is_made_and_opened() -> None:
    peter = NoteKey.parse(PETER)
    assert str(peter) == PETER
    assert peter.id.hex() == "c74f20a3"
    secret = SigningKey(base64.b64decode(PETER_SECRET)[1:])
    assert sign_note(SAYING, "PeterNeumann", secret) == PETERS_NOTE
    opened = open_note(PETERS_NOTE, [peter])
    assert opened.text == SAYING
    assert [one.by for one in opened.signatures] == [peter]


def test_a_published_checkpoint_opens() -> None:
    log = NoteKey.parse(TEST_LOG)
    checkpoint = open_checkpoint(TEST_LOG_NOTE, log.name, log.key)
    assert (checkpoint.origin, checkpoint.size) == ("geomys.org/witness/test-log", 1)
    assert checkpoint.to_text() == split_note(TEST_LOG_NOTE)[0]


def test_a_published_cosignature_holds() -> None:
    witness = NoteKey.parse(NAVIGLI)
    assert witness.kind is SignatureKind.COSIGNATURE
    assert str(witness) == NAVIGLI
    assert cosigners(NAVIGLIS_NOTE, [witness]) == {witness.name: 0x6A6FB0F3}
    assert read_checkpoint(NAVIGLIS_NOTE).size == 185550722
    with pytest.raises(LedgerError):
        cosigners(NAVIGLIS_NOTE.replace(b"185550722", b"185550721"), [witness])


@pytest.mark.parametrize("at", range(len(PETER)))
def test_a_key_that_was_changed_or_cut_is_refused(at: int) -> None:
    changed = chr(ord(PETER[at]) + 1)
    for text in (PETER[:at] + changed + PETER[at + 1 :], PETER[:at], PETER[at + 1 :]):
        with pytest.raises(LedgerError):
            NoteKey.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==",  # too long, with its own id
        "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",  # another kind, with its own id
        PETER + "\n", PETER.upper(), "", "+", "++", "a+b+c", "\ud800+00000000+AA==",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(LedgerError):
        NoteKey.parse(text)


@given(names, st.binary(min_size=32, max_size=32), st.sampled_from(SignatureKind))
def test_keys_are_read_as_they_are_written(name: str, seed: bytes, kind: SignatureKind) -> None:
    key = NoteKey(name, SigningKey(seed).public, kind)
    assert NoteKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "name", ["", "two words", "a+b", "a\nb", "a\u2003b", "a\u00a0b", "a\x00b", "\ud800", "a" * 256]
)
def test_nobody_signs_under_an_impossible_name(name: str) -> None:
    with pytest.raises(LedgerError):
        NoteKey(name, SEED.public)
    with pytest.raises(LedgerError):
        sign_note(b"text\n", name, SEED)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=30), st.integers(0, 3))
def test_what_is_signed_opens_and_says_the_same(text: str, empty_lines: int) -> None:
    said = (text + "\n" * (1 + empty_lines)).encode()
    opened = open_note(sign_note(said, "somebody", SEED), [NoteKey("somebody", SEED.public)])
    assert opened.text == said


@given(st.integers(0, len(PETERS_NOTE) - 1), st.integers(1, 255))
def test_a_note_that_was_changed_anywhere_is_refused(at: int, mask: int) -> None:
    note = PETERS_NOTE[:at] + bytes([PETERS_NOTE[at] ^ mask]) + PETERS_NOTE[at + 1 :]
    with pytest.raises(LedgerError):
        open_note(note, [NoteKey.parse(PETER)])


@given(st.integers(0, len(PETERS_NOTE) - 1))
def test_a_note_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(LedgerError):
        open_note(PETERS_NOTE[:length], [NoteKey.parse(PETER)])


@given(st.binary(max_size=80) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_anything_opens_or_is_refused_in_words(note: bytes) -> None:
    for given_note in (note, SAYING + b"\n" + note, PETERS_NOTE + note, NOTE + b"\xe2\x80\x94 " + note):
        with pytest.raises(LedgerError):
            open_note(given_note, [NoteKey("nobody", OTHER.public)])


def test_lines_of_unknown_signers_are_ignored() -> None:
    note = add_line(PETERS_NOTE, cosignature(SAYING, "somebody.else", OTHER, 1))
    note = add_line(note, bytes(Line("PeterNeumann", b"\x00\x00\x00\x01" + bytes(64))))  # his name, not his key
    note = add_line(note, bytes(Line("somebody.else", b"\xc7\x4f\x20\xa3" + bytes(64))))  # his key's id, not his name
    note = add_line(note, bytes(Line("post-quantum", bytes(5000))))
    assert [one.by.name for one in open_note(note, [NoteKey.parse(PETER)]).signatures] == ["PeterNeumann"]


def test_a_wrong_signature_of_a_known_key_refuses_the_whole_note() -> None:
    peter, other = NoteKey.parse(PETER), NoteKey("other", OTHER.public)
    wrong = add_line(PETERS_NOTE, bytes(Line("other", other.id + OTHER.sign(b"something else\n"))))
    assert open_note(wrong, [peter]).text == SAYING
    with pytest.raises(LedgerError, match="other"):
        open_note(wrong, [peter, other])


def test_a_note_by_nobody_known_is_refused() -> None:
    for keys in ([], [NoteKey("PeterNeumann", OTHER.public)], [NoteKey("another", NoteKey.parse(PETER).key)]):
        with pytest.raises(LedgerError, match="nobody"):
            open_note(PETERS_NOTE, keys)


def test_a_signature_of_one_kind_is_none_of_the_other() -> None:
    plain, witness = NoteKey("w", SEED.public), cosigner_key("w", SEED.public)
    as_cosignature = SAYING + b"\n" + bytes(Line("w", witness.id + SEED.sign(SAYING)))
    as_plain = SAYING + b"\n" + cosignature(SAYING, "w", SEED, 1)
    assert open_note(as_plain, [witness]).signatures[0].time == 1
    for note, key in ((as_cosignature, witness), (as_plain, plain)):
        with pytest.raises(LedgerError):
            open_note(note, [key])


@pytest.mark.parametrize(
    "note",
    [
        b"", b"\n", b"\n\n", b"text\n", b"text\n\n", PETERS_NOTE[:-1], PETERS_NOTE + b"\n",
        PETERS_NOTE.replace(b"\n\n", b"\n"), PETERS_NOTE.replace(b"answer", b"ans\twer"),
        PETERS_NOTE.replace(b"answer", b"ans\rwer"), PETERS_NOTE.replace("—".encode(), b"-"),
        PETERS_NOTE.replace(b" x08", b"  x08"), PETERS_NOTE.replace(b"nAM=", b"nAM"),
        PETERS_NOTE.replace(b"AM=", b"AN="),
        PETERS_NOTE + "— broken\n".encode(), PETERS_NOTE + "— broken AAAA\n".encode(), b"\xff" + PETERS_NOTE,
        PETERS_NOTE + b"a line\n", b"a" * (MOST_NOTE_BYTES + 1),
        PETERS_NOTE + bytes(Line("w", bytes(72))) * MOST_LINES,
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(note: bytes) -> None:
    with pytest.raises(LedgerError):
        open_note(note, [NoteKey.parse(PETER)])


def test_sixteen_signatures_and_more_are_read() -> None:
    note = PETERS_NOTE + bytes(Line("w", bytes(72))) * (MOST_LINES - 1)
    assert len(split_note(note)[1]) == MOST_LINES
    assert open_note(note, [NoteKey.parse(PETER)]).text == SAYING


@pytest.mark.parametrize("text", [b"", b"no end", b"a\tb\n", b"a\x00\n", b"\xff\n", b"a\r\n"])
def test_only_a_text_is_signed(text: bytes) -> None:
    with pytest.raises(LedgerError):
        sign_note(text, "name", SEED)


def test_only_one_line_is_added() -> None:
    line = cosign(NOTE, "w", OTHER, 7)
    assert bytes(read_line(line)) == line
    for wrong in (line + line, line[:-1], b"", b"\n", line + b"\n"):
        with pytest.raises(LedgerError):
            add_line(NOTE, wrong)


def test_a_checkpoint_is_three_lines_and_a_signature() -> None:
    text, lines = split_note(NOTE)
    assert text == b"atelier.example/bottega\n3\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
    assert [line.name for line in lines] == [ORIGIN]
    assert open_checkpoint(NOTE, ORIGIN, SEED.public) == SEEN == read_checkpoint(NOTE)


def test_a_checkpoint_of_another_key_or_ledger_is_refused() -> None:
    for origin, key in ((ORIGIN, OTHER.public), ("another.example/bottega", SEED.public)):
        with pytest.raises(LedgerError):
            open_checkpoint(NOTE, origin, key)
    lie = sign_note(Checkpoint("another.example/bottega", 3, bytes(32)).to_text(), ORIGIN, SEED)
    with pytest.raises(LedgerError, match="another ledger"):
        open_checkpoint(lie, ORIGIN, SEED.public)


@pytest.mark.parametrize(
    "text",
    [
        b"a\n3\n", b"a\n03\n%s\n", b"a\n-3\n%s\n", b"a\n+3\n%s\n", b"a\n3.0\n%s\n", b"a\n\xd9\xa3\n%s\n", b"\n3\n%s\n",
        b"a\n3\n%s\nextension\n", b"a\n3\n%s\n\n", b"a\n3\nAAAA\n", b"a\n3\n%s=\n", b"a\n99999999999999999999\n%s\n",
        b"a\n9223372036854775807\n%s\n", b"a\n0\n%s\n", b"\xff\n3\n%s\n", b"a\n3 \n%s\n",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: bytes) -> None:
    whole = text.replace(b"%s", base64.b64encode(bytes(32)))
    with pytest.raises(LedgerError):
        Checkpoint.from_text(whole)
    if whole.isascii():
        with pytest.raises(LedgerError):
            cosign(sign_note(whole, "a", SEED), "w", OTHER, 1)


def test_a_checkpoint_says_only_what_a_ledger_can_be() -> None:
    assert Checkpoint.from_text(Checkpoint("a", 0, EMPTY_ROOT).to_text()).size == 0
    for size, root in ((-1, bytes(32)), (2**62, bytes(32)), (3, b"short"), (0, bytes(32))):
        with pytest.raises(LedgerError):
            Checkpoint("a", size, root)


def test_a_cosignature_says_what_was_seen_and_when() -> None:
    line = cosign(NOTE, "atelier.example/site/prado", OTHER, 1_700_000_000)
    said = read_line(line)
    assert said.blob[4:12] == (1_700_000_000).to_bytes(8, "big")
    assert OTHER.public.verifies(said.blob[12:], b"cosignature/v1\ntime 1700000000\n" + SEEN.to_text())
    key = cosigner_key("atelier.example/site/prado", OTHER.public)
    assert cosigners(NOTE + line, [key]) == {"atelier.example/site/prado": 1_700_000_000}
    assert open_checkpoint(NOTE + line, ORIGIN, SEED.public) == SEEN


def test_a_cosignature_of_something_else_is_refused() -> None:
    key = cosigner_key("w", OTHER.public)
    for other in (Checkpoint(ORIGIN, 4, SEEN.root), Checkpoint(ORIGIN, 3, bytes(32)), Checkpoint("b", 3, SEEN.root)):
        line = cosign(sign_checkpoint(other, SEED), "w", OTHER, 5)
        with pytest.raises(LedgerError):
            cosigners(NOTE + line, [key])
    dated = read_line(cosign(NOTE, "w", OTHER, 5)).blob
    redated = bytes(Line("w", dated[:4] + (6).to_bytes(8, "big") + dated[12:]))
    with pytest.raises(LedgerError):
        cosigners(NOTE + redated, [key])


def test_who_did_not_cosign_is_not_told_of_and_the_last_time_counts() -> None:
    keys = [cosigner_key("w", OTHER.public), cosigner_key("w", SEED.public), cosigner_key("x", SEED.public)]
    assert cosigners(NOTE, keys) == {}
    assert cosigners(NOTE, []) == {}
    twice = NOTE + cosign(NOTE, "w", OTHER, 9) + cosign(NOTE, "w", SEED, 4)  # it had gone over to another key
    assert cosigners(twice, keys) == {"w": 9}


@pytest.mark.parametrize("time", [-1, 2**63])
def test_nothing_is_cosigned_out_of_time(time: int) -> None:
    with pytest.raises(LedgerError):
        cosign(NOTE, "w", OTHER, time)
    beyond = bytes(Line("w", cosigner_key("w", OTHER.public).id + (2**63).to_bytes(8, "big") + bytes(64)))
    with pytest.raises(LedgerError):
        cosigners(NOTE + beyond, [cosigner_key("w", OTHER.public)])
