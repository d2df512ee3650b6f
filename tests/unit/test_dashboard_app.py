"""The dashboard's application: who gets in, what browsers are told, and that every page says what is on record."""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request
from starlette.testclient import TestClient

from common.errors import IdentityError
from common.settings import RunSettings
from security.authority import create_authority
from security.entries import write_entry
from security.identity import Identity
from security.ledger import append
from security.merkle import leaf_hash, verify_inclusion
from security.names import Role, SpiffeId
from security.roster import Roster
from server.dashboard.app import create_app
from server.dashboard.desk import Desk
from server.dashboard.ledger_file import LedgerFile
from server.dashboard.places import KINDS
from server.dashboard.shield import called_by
from server.dashboard.visitors import CERTIFICATE, LINK_S, LinkDoor, MemberDoor, NotAdmittedError
from tests.ledgers import FEDERATION, RUN, Story, a_story, some_members, trust_in, write_ledger

MEMBERS = some_members()
ADDRESS = "http://127.0.0.1:8460"
PAGES = (
    "/", "/runs", f"/runs/{RUN}", f"/runs/{RUN}?page=9&window=7", f"/runs/{RUN}/rounds/2", "/members/site/rossi",
    "/members/site/vandal", "/members/operator/anna", "/ledger", "/ledger?kind=update&until=20", "/ledger?until=x",
    "/ledger/entries/0", "/ledger/entries/14", "/ledger/checkpoints/8", "/?page=99",
)  # fmt: skip


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    file = tmp_path_factory.mktemp("dashboard") / "ledger.db"
    write_ledger(file, MEMBERS, a_story(MEMBERS).entries)
    with served(file) as made:
        yield made


@contextmanager
def served(file: Path) -> Iterator[Desk]:
    trust = trust_in(MEMBERS)
    with Desk(LedgerFile(file, lambda: trust, "mirror"), LinkDoor(8460)) as made:
        patience = time.monotonic() + 20
        while made.follower.standing.holds is None:
            assert time.monotonic() < patience
            time.sleep(0.01)
        yield made


def stranger(desk: Desk) -> TestClient:
    return TestClient(create_app(desk, {"127.0.0.1", "localhost"}, secure=False), ADDRESS, follow_redirects=False)


@pytest.fixture
def reader(desk: Desk) -> TestClient:
    client = stranger(desk)
    assert isinstance(desk.door, LinkDoor)
    assert client.get("/login", params={"token": desk.door.link()}).status_code == 200
    return client


class Strict(HTMLParser):
    """Refuses in a page what the policy of its headers refuses, and elements that are not closed in their order."""

    void = frozenset({"meta", "link", "br", "input", "img", "rect", "circle", "line", "path", "use"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "style"
        told = dict(attrs)
        assert len(told) == len(attrs)
        assert not [name for name in told if name == "style" or name.startswith("on")]
        assert tag != "script" or (told["src"] or "").startswith("/assets/")
        for name in ("href", "src", "action"):
            assert (told.get(name) or "/").startswith(("/", "#")), told
        if told.get("id"):
            self.ids.append(str(told["id"]))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert tag in self.void or self.open.pop() == tag, tag


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_whole_and_holds_nothing_that_a_browser_would_run(
    reader: TestClient, path: str, language: str
) -> None:
    answer = reader.get(path, headers={"Accept-Language": language})
    assert answer.status_code == 200, answer.text
    page = Strict()
    page.feed(answer.text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)), [one for one in page.ids if page.ids.count(one) > 1]
    assert f'<html lang="{language}">' in answer.text
    assert answer.headers["content-language"] == language


def test_a_page_needs_no_javascript_to_say_what_is_on_record(reader: TestClient) -> None:
    assert "sent noise for a month" in reader.get("/members/site/vandal").text
    told = reader.get(f"/runs/{RUN}/rounds/2").text
    assert "no answer by the round&#39;s deadline" in told
    assert "stranger than 99.6 % of honest updates" in told
    assert "Check 17, anomaly" in told
    assert "The ledger holds." in told


def test_headers_leave_a_browser_nothing_to_be_talked_into(reader: TestClient) -> None:
    for path in ("/", "/assets/house.css", "/nothing", "/login?token=x"):
        headers = reader.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
    assert reader.get("/").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_there_is_nothing_but_reading(reader: TestClient, method: str) -> None:
    for path in ("/", "/ledger", "/login"):
        assert reader.request(method, path).status_code == 405


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8460", "127.0.0.1.evil.example", "", "[::2]:8460", "127.0.0.2"]
)
def test_a_foreign_name_is_not_answered(reader: TestClient, host: str) -> None:
    answer = reader.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "rossi" not in answer.text


def test_names_are_read_from_the_host_header() -> None:
    assert [called_by(one) for one in ("LocalHost:80", "127.0.0.1", "[::1]:8460", "[::1", "")] == [
        "localhost", "127.0.0.1", "::1", "::1", "",
    ]  # fmt: skip


@pytest.mark.parametrize("path", [*PAGES, "/ledger/entries/3.json", "/events", "/openapi.json", "/docs"])
def test_a_stranger_reads_nothing(desk: Desk, path: str) -> None:
    answer = stranger(desk).get(path)
    assert answer.status_code == 401
    assert "bottega audit serve" in answer.text
    for secret in ("rossi", "anna", RUN, FEDERATION):
        assert secret not in answer.text.replace(quote(path), "")  # what was asked for, to ask for it again in Spanish


def test_a_link_is_good_once(desk: Desk) -> None:
    assert isinstance(desk.door, LinkDoor)
    token, first = desk.door.link(), stranger(desk)
    answer = first.get("/login", params={"token": token})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert first.get("/").status_code == 200
    for bad in (token, "", "x" * 10_000):
        second = stranger(desk)
        assert second.get("/login", params={"token": bad}).status_code == 401
        assert second.get("/").status_code == 401


def test_a_link_that_waited_too_long_is_not_good() -> None:
    clock = Clock()
    door = LinkDoor(1, clock=clock)
    token = door.link()
    clock.now = LINK_S + 1
    with pytest.raises(NotAdmittedError, match="not good"):
        door.open(token)


def test_another_link_is_told_when_one_was_used() -> None:
    told: list[str] = []
    door = LinkDoor(1, used=lambda: told.append(door.link()))
    door.open(door.link())
    assert len(told) == 1
    door.open(told[0])
    assert len(told) == 2


def test_what_is_not_there_is_said_so(reader: TestClient) -> None:
    for path in (
        "/nothing", "/runs/none", f"/runs/{RUN}/rounds/99", f"/runs/{RUN}/rounds/0", f"/runs/{RUN}/rounds/x",
        "/members/site/none", "/members/x/y", "/ledger/entries/9999", "/ledger/entries/-1", "/ledger/entries/x",
        "/ledger/entries/99999999999999999999999", "/ledger/checkpoints/9", f"/runs/{RUN}/samples/1.png",
        "/runs/..%2f..%2fetc/samples/1.png", "/language/fr", "/?page=0", "/assets/none.js", "/assets/../app.py",
    ):  # fmt: skip
        answer = reader.get(path)
        assert answer.status_code == 404, path
        assert "Nothing of that name" in answer.text or path.startswith("/assets"), path


def test_a_reader_chooses_the_language(reader: TestClient) -> None:
    answer = reader.get("/language/es?back=/runs")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert '<html lang="es">' in reader.get("/runs").text
    for back in ("//evil.example", "https://evil.example", "/\\evil.example", "\n//x", ""):
        assert reader.get("/language/en", params={"back": back}).headers["location"] == "/"


def test_what_a_browser_verifies_an_entry_with_is_all_there(reader: TestClient, desk: Desk) -> None:
    told = reader.get("/ledger/entries/14.json").json()
    entry = base64.b64decode(told["entry"])
    checkpoint = trust_in(MEMBERS).open(told["checkpoint"].encode())
    proof = [bytes.fromhex(step) for step in told["proof"]]
    verify_inclusion(leaf_hash(entry), told["index"], checkpoint.size, proof, checkpoint.root)
    assert told["key"] == MEMBERS.server.signing.public.raw.hex()
    assert json.loads(entry)["kind"] in KINDS


def test_an_entry_that_no_checkpoint_covers_is_said_to_be_unsigned(tmp_path: Path) -> None:
    story = a_story(MEMBERS)
    write_ledger(tmp_path / "ledger.db", MEMBERS, story.entries)
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        (place,) = append(db, [write_entry(story.entries[-1])], [None])
        db.execute("COMMIT")
    with served(tmp_path / "ledger.db") as made:
        client = stranger(made)
        assert isinstance(made.door, LinkDoor)
        client.get("/login", params={"token": made.door.link()})
        told = client.get(f"/ledger/entries/{place}.json").json()
        assert told["checkpoint"] is None
        assert "nobody has signed the root" in client.get(f"/ledger/entries/{place}").text


def test_words_of_others_stay_words(tmp_path: Path) -> None:
    evil = '<script src="//evil.example"></script>"\'><img src=x onerror=y>{{7*7}}'
    story = Story(MEMBERS.server.id.federation)
    story.found(MEMBERS.server.signing.public.raw, "0" * 64)
    story.join("rossi")
    story.revoke("rossi", evil)
    run = evil.replace("/", "")[:60]
    story.start(run, ["rossi"], RunSettings())
    story.open_round(run, 1, ["rossi"])
    story.update(run, 1, "rossi", verdict="refused", check=5, check_name=evil, reason=evil)
    story.end(run, "failed", evil)
    write_ledger(tmp_path / "ledger.db", MEMBERS, story.entries)
    with served(tmp_path / "ledger.db") as made:
        client = stranger(made)
        assert isinstance(made.door, LinkDoor)
        client.get("/login", params={"token": made.door.link()})
        links = {"/", "/runs", "/ledger", "/members/site/rossi", "/ledger/entries/5"}
        links |= {link.replace("&amp;", "&") for link in re.findall(r'href="(/runs/[^"]+)"', client.get("/runs").text)}
        assert len(links) == 6
        for path in links:
            answer = client.get(path)
            assert answer.status_code == 200, path
            page = Strict()
            page.feed(answer.text)
            assert "<img src=x" not in answer.text
            assert "{{7*7}}" in answer.text or "49" not in answer.text


def test_a_tampered_ledger_is_shown_as_such_on_every_page(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.db", MEMBERS, a_story(MEMBERS).entries)
    with sqlite3.connect(tmp_path / "ledger.db") as db:
        db.execute("DROP TRIGGER ledger_entries_unchanged")
        db.execute("UPDATE ledger_entries SET entry = CAST(entry || ' ' AS BLOB) WHERE \"index\" = 17")
    with served(tmp_path / "ledger.db") as made:
        client = stranger(made)
        assert isinstance(made.door, LinkDoor)
        client.get("/login", params={"token": made.door.link()})
        for path in PAGES:
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "This ledger does not hold from entry 16 on." in answer.text
            assert "entry 17 is not what was written" in answer.text
            assert "The ledger holds." not in answer.text
        assert "Este registro no es válido" in client.get("/", headers={"Accept-Language": "es"}).text
        assert "Not what was written!" in client.get("/ledger/entries/17").text


def test_a_ledger_of_no_entry_is_said_to_prove_nothing(tmp_path: Path) -> None:
    write_ledger(tmp_path / "ledger.db", MEMBERS, [])
    with served(tmp_path / "ledger.db") as made:
        client = stranger(made)
        assert isinstance(made.door, LinkDoor)
        client.get("/login", params={"token": made.door.link()})
        for path in ("/", "/runs", "/ledger"):
            assert client.get(path).status_code == 200
        assert "The ledger holds no entry yet." in client.get("/ledger").text


# -- members from elsewhere --------------------------------------------------------------------------------------------


class Elsewhere:
    """A federation whose members come with certificates."""

    def __init__(self) -> None:
        self.authority = create_authority(FEDERATION)
        self.roster = Roster.first(MEMBERS.server.peer, 1)
        self.door = MemberDoor(lambda: self.roster)

    def member(self, role: Role, name: str) -> SpiffeId:
        who = SpiffeId(FEDERATION, role, name)
        self.roster = self.roster.with_member(Identity.generate(who).peer, b"", 1)
        return who

    def certificate(self, who: SpiffeId, **other: int) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        return self.authority.issue(who, key, **other)  # type: ignore[arg-type]

    def admit(self, certificate: x509.Certificate | None) -> str | None:
        scope = {"type": "http", "headers": [], "state": {CERTIFICATE: certificate}}
        return self.door.admit(Request(scope)).name


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OPERATOR])
def test_an_active_operator_or_auditor_is_let_in(role: Role) -> None:
    there = Elsewhere()
    who = there.member(role, "carla")
    assert there.admit(there.certificate(who)) == str(who)


def test_others_are_not_let_in() -> None:
    there = Elsewhere()
    site = SpiffeId(FEDERATION, Role.SITE, "rossi")
    with pytest.raises(NotAdmittedError, match="no certificate was shown"):
        there.admit(None)
    with pytest.raises(NotAdmittedError, match="a site may not read"):
        there.admit(there.certificate(site))
    with pytest.raises(NotAdmittedError, match="dora is not an active member"):
        there.admit(there.certificate(SpiffeId(FEDERATION, Role.AUDITOR, "dora")))


def test_a_revocation_holds_from_the_next_request_on() -> None:
    there = Elsewhere()
    who = there.member(Role.AUDITOR, "carla")
    certificate = there.certificate(who)
    there.admit(certificate)
    there.roster = there.roster.with_revocation(who, "left", 2)
    with pytest.raises(NotAdmittedError, match="not an active member"):
        there.admit(certificate)


def test_a_certificate_for_keys_that_were_rotated_is_not_good() -> None:
    there = Elsewhere()
    who = there.member(Role.AUDITOR, "carla")
    with pytest.raises(NotAdmittedError, match="gone over to new keys"):
        there.admit(there.certificate(who, generation=1))


def test_a_certificate_that_has_run_out_is_not_good() -> None:
    there = Elsewhere()
    who = there.member(Role.AUDITOR, "carla")
    certificate = there.authority.issue(
        who, ec.generate_private_key(ec.SECP256R1()).public_key(), lifetime=dt.timedelta(microseconds=1)
    )
    time.sleep(1.1)  # certificates count in seconds
    with pytest.raises(NotAdmittedError, match="run out"):
        there.admit(certificate)


def test_a_roster_that_cannot_be_believed_lets_nobody_in() -> None:
    there = Elsewhere()
    certificate = there.certificate(there.member(Role.AUDITOR, "carla"))

    def lost() -> Roster:
        raise IdentityError("the roster is missing")

    there.door = MemberDoor(lost)
    with pytest.raises(NotAdmittedError, match="it cannot be told who asks"):
        there.admit(certificate)
