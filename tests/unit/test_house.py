"""The server's house and a site's: how the roster is published at the one, and kept at the other."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from client.settings import SiteSettings
from client.settling import join, known_roster, settle
from common.errors import IdentityError
from common.paths import ServerHome, SiteHome
from security.authority import Authority, certified_id, load_certificate, save_certificate
from security.files import PUBLIC, replace
from security.identity import Identity, Role, SpiffeId
from security.key_folder import open_key_folder
from security.keys import supernode_line
from security.roster import Roster, sign_roster
from server.founding import add_site, found
from server.house import House, active_sites, open_house
from server.operating import load_operator
from server.own_certificate import renew_own_certificate
from server.settings import ServerSettings
from server.supernodes import flower_key

if TYPE_CHECKING:
    from pathlib import Path

FEDERATION = "house.test"


@pytest.fixture
def house(tmp_path: Path) -> House:
    home = ServerHome(tmp_path / "server")
    found(home, ServerSettings(federation=FEDERATION), ["127.0.0.1"])
    return open_house(home)


def settled(house: House, root: Path, name: str) -> SiteHome:
    home = SiteHome(root / name)
    told = SiteSettings(federation=FEDERATION, name=name, server="127.0.0.1:8440", data=str(root))
    add_site(house.home, settle(home, told))
    return home


def named(name: str) -> SpiffeId:
    return SpiffeId(FEDERATION, Role.SITE, name)


def operator(name: str) -> SpiffeId:
    return SpiffeId(FEDERATION, Role.OPERATOR, name)


def told(house: House, site: SiteHome) -> None:
    authority = house.home.authority_certificate.read_bytes()
    join(site, house.identity.peer, house.home.roster.read_bytes(), authority)


def test_founding_names_server_and_operator_and_each_site_is_one_version_more(house: House, tmp_path: Path) -> None:
    assert house.roster.version == 2
    assert list(house.roster) == [load_operator(house.home.operator).identity.peer, house.identity.peer]
    site = settled(house, tmp_path, "anna")
    settled(house, tmp_path, "bruno")
    assert house.roster.version == 4
    assert [member.id.name for member in active_sites(house.roster)] == ["anna", "bruno"]
    key = flower_key(site.supernode_key.with_suffix(".pub").read_bytes())
    assert house.sites[key].id == named("anna")


def test_who_was_revoked_is_no_longer_among_the_sites_of_a_house_that_is_open(house: House, tmp_path: Path) -> None:
    for name in ("anna", "bruno"):
        settled(house, tmp_path, name)
    other_process = open_house(house.home)
    other_process.publish(lambda roster: roster.with_revocation(named("anna"), "left", 1))
    assert [peer.id.name for peer in house.sites.values()] == ["bruno"]
    assert named("anna") not in house.roster
    with pytest.raises(IdentityError, match="taken"):
        settled(house, tmp_path / "again", "anna")


REVOKED_ELSEWHERE = """
import sys
from pathlib import Path
from common.paths import ServerHome
from security.names import SpiffeId
from server.house import open_house
who = SpiffeId.parse(sys.argv[2])
open_house(ServerHome(Path(sys.argv[1]))).publish(lambda roster: roster.with_revocation(who, "left", 1))
"""


def test_a_revocation_by_another_process_holds_at_the_next_look(house: House, tmp_path: Path) -> None:
    settled(house, tmp_path, "anna")
    assert named("anna") in house.roster
    words = [sys.executable, "-c", REVOKED_ELSEWHERE, str(house.home.root), str(named("anna"))]
    subprocess.run(words, check=True, timeout=60)
    assert named("anna") not in house.roster


def test_an_unchanged_roster_is_checked_once_and_sent_as_it_was_signed(house: House, tmp_path: Path) -> None:
    first = house.published
    assert house.published is first
    assert first.signed == house.home.roster.read_bytes()
    settled(house, tmp_path, "anna")
    assert house.published is not first
    assert house.published.signed == house.home.roster.read_bytes()


def test_another_roster_of_the_same_length_and_time_is_another_roster(house: House) -> None:
    server = house.identity
    one = Roster.first(server.peer, 1).with_member(Identity.generate(operator("anna")).peer, b"", 1)
    other = Roster.first(server.peer, 1).with_member(Identity.generate(operator("olga")).peer, b"", 1)
    before = house.home.roster.stat()
    for roster in (one, other):
        signed = sign_roster(roster, server)
        replace(house.home.roster, [signed], error=IdentityError, mode=PUBLIC)
        os.utime(house.home.roster, ns=(before.st_mtime_ns, before.st_mtime_ns))
        assert house.roster == roster
    assert len(sign_roster(one, server)) == len(signed)


def test_a_roster_that_is_gone_or_damaged_is_not_remembered(house: House) -> None:
    whole = house.published.signed
    house.home.roster.unlink()
    with pytest.raises(IdentityError, match="cannot be read"):
        _ = house.roster
    house.home.roster.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for _ in range(2):
        with pytest.raises(IdentityError):
            _ = house.roster
    house.home.roster.write_bytes(whole)
    assert house.published.signed == whole


def test_what_sites_would_refuse_is_not_published(house: House, tmp_path: Path) -> None:
    settled(house, tmp_path, "anna")
    before = house.home.roster.read_bytes()
    for change in (
        lambda _: dataclasses.replace(Roster.first(house.identity.peer, 1), version=9),
        lambda roster: dataclasses.replace(roster, version=1),
        lambda _: Roster.first(Identity.generate(house.identity.id).peer, 1),
    ):
        with pytest.raises(IdentityError):
            house.publish(change)
    assert house.home.roster.read_bytes() == before


def test_two_who_publish_at_once_make_two_versions(house: House) -> None:
    def add(number: int) -> None:
        peer = Identity.generate(named(f"site-{number}")).peer
        key = supernode_line(ec.generate_private_key(ec.SECP384R1()).public_key())

        def change(roster: Roster) -> Roster:
            time.sleep(0.01)  # long enough for the other to come between, if it could
            return roster.with_member(peer, key, 1)

        open_house(house.home).publish(change)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(8)))
    assert house.roster.version == 10
    assert len(house.sites) == 8


def test_a_site_keeps_what_it_was_told_and_follows_the_server(house: House, tmp_path: Path) -> None:
    site = settled(house, tmp_path, "anna")
    told(house, site)
    told(house, site)  # again: nothing happens
    assert known_roster(site) == house.roster
    assert known_roster(site).server.peer == house.identity.peer
    settled(house, tmp_path, "bruno")
    told(house, site)
    assert known_roster(site).version == 4


def test_a_site_that_joined_takes_neither_another_server_nor_an_older_roster(house: House, tmp_path: Path) -> None:
    old = house.home.roster.read_bytes()
    site = settled(house, tmp_path, "anna")
    told(house, site)
    kept = site.roster.read_bytes(), site.authority_certificate.read_bytes()
    with pytest.raises(IdentityError, match="goes backwards"):
        join(site, house.identity.peer, old, b"another authority")
    impostor = Identity.generate(house.identity.id)
    with pytest.raises(IdentityError, match="pins somebody else"):
        join(site, impostor.peer, sign_roster(Roster.first(impostor.peer, 1), impostor), b"another authority")
    assert (site.roster.read_bytes(), site.authority_certificate.read_bytes()) == kept


def test_a_site_that_has_not_joined_says_so(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot be read"):
        known_roster(SiteHome(tmp_path))


def test_the_servers_certificate_is_issued_again_when_it_is_time_for_the_same_key_and_names(house: House) -> None:
    now, old = dt.datetime.now(dt.UTC), load_certificate(house.home.certificate)
    assert not renew_own_certificate(house.home, now)
    assert load_certificate(house.home.certificate) == old
    authority = Authority.load(open_key_folder(house.home))
    key = old.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    short = authority.issue(
        certified_id(old), key, names.value.get_values_for_type(x509.DNSName),
        [ip_address(str(one)) for one in names.value.get_values_for_type(x509.IPAddress)],
        lifetime=dt.timedelta(minutes=2),
    )  # fmt: skip
    save_certificate(house.home.certificate, short)
    assert renew_own_certificate(house.home, now)
    fresh = load_certificate(house.home.certificate)
    assert fresh.public_key() == key
    assert fresh.extensions.get_extension_for_class(x509.SubjectAlternativeName) == names
    assert fresh.not_valid_after_utc > now + dt.timedelta(days=89)
