"""Whether anything is wrong with a site: what its doctor looks at, whether the site runs or not. Nothing is changed."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from pathlib import Path

from client.agent_socket import get_status
from client.drawings import load_drawings
from client.reasons import Skip
from client.settings import SiteSettings
from client.settling import known_roster
from common.checkup import Check, Finding, doubtful, fine, wrong
from common.errors import HomeError, IdentityError
from common.machine_checks import disk, modes, versions
from common.paths import SiteHome
from common.proto import registry_pb2 as pb
from common.settings import read_toml
from security.authority import certified_id, load_certificate
from security.calling import CALL_S, registry
from security.files import read_public
from security.key_folder import open_key_folder
from security.member import MemberKeys
from security.names import Role, SpiffeId
from security.tls_checks import age, certificate, clock, reach

MOST_AHEAD = dt.timedelta(seconds=5)
"""Clocks may differ by this much; Flower refuses what a SuperNode signs later than that in the server's future."""

QUIET = dt.timedelta(hours=6)
"""A running site that has not reached the registry for longer than this is cut off."""

CONFINED = "Landlock"
"""How the word on the courier's confinement begins (:mod:`client.confinement`) when there is any."""

_FEW = 2


def site_checks(home: SiteHome) -> list[tuple[str, Check]]:
    """Return the checks of a site, in the order in which a fault in one explains those after it."""
    patient = _Patient(home)
    return [
        ("settings", patient.settings_fit),
        ("permissions", lambda: modes((*home.folders, home.approvals), home.keys, home.vault_key)),
        ("keys", patient.keys),
        ("certificate", patient.certificate),
        ("roster", patient.roster),
        ("fleet port", patient.fleet),
        ("registry", patient.registry),
        ("agent", patient.agent),
        ("drawings", patient.drawings),
        ("base", patient.base),
        ("disk", lambda: disk(home.root)),
        ("versions", versions),
    ]


class _Patient:
    """A site's home that is looked at. Each method is a check (:func:`~common.checkup.examine`)."""

    def __init__(self, home: SiteHome) -> None:
        self._home = home

    def settings_fit(self) -> Iterator[Finding]:
        """Whether there is a site, and its site.toml can be read."""
        if not self._home.settings.is_file():
            raise HomeError(
                "there is no site in this folder", expected=f"{self._home.settings.name} in it",
                advice="Name the site's folder with --home, or join: bottega site join TOKEN --data DIR.",
            )  # fmt: skip
        yield fine("settings", f"{self._settings().name} of {self._settings().federation}")

    def keys(self) -> Iterator[Finding]:
        """Whether the site's keys are there."""
        keys = self._keys()
        yield fine("keys", f"signing, sealing, TLS and SuperNode keys can be read: {keys.fingerprint.words}")

    def certificate(self) -> Iterator[Finding]:
        """Whether the site's certificate holds, and is for its name and key."""
        if self._settings().registry is None:
            yield fine("certificate", "none: this site knows no registry")
            return
        shown, keys = load_certificate(self._home.certificate), self._keys()
        again = f"bottega site request {keys.id.name}; the operator answers it, then: bottega site accept"
        if shown.public_key() != keys.tls.public_key() or certified_id(shown) != keys.id:
            yield wrong("certificate", "it is for another name or another key", again)
            return
        renew = f"A running site renews it by itself when it reaches the registry; one that ran out: {again}"
        issuer = load_certificate(self._home.authority_certificate)
        yield from certificate("certificate", self._home.certificate, renew=renew, issuer=issuer)

    def roster(self) -> Iterator[Finding]:
        """Whether the roster is the pinned server's, and names this site."""
        roster, me = known_roster(self._home), self._me()
        made = dt.timedelta(seconds=time.time() - roster.created_at_ms / 1000)
        if me not in roster:
            yield wrong("roster", f"version {roster.version} does not name this site as active", "Ask the operator.")
        elif roster.member(me).keys.verify != self._keys().public.verify:
            yield wrong("roster", f"version {roster.version} names other keys than this site's", "Ask the operator.")
        else:
            yield fine("roster", f"version {roster.version}, made {age(made)} ago, signed by the pinned server")

    def fleet(self) -> Iterator[Finding]:
        """Whether the fleet port answers, as the server's, and what time it is there."""
        found, ahead = reach("fleet port", self._settings().server, self._authority(), "http/1.1", ask_time=True)
        yield found
        if ahead is not None:
            yield clock(ahead, most=MOST_AHEAD)

    def registry(self) -> Iterator[Finding]:
        """Whether the registry answers, and takes this site as a member."""
        address = self._settings().registry
        if address is None:
            yield fine("registry", "none: this site knows no registry")
            return
        found, _ = reach("registry", address, self._authority(), "h2")
        yield found
        if found.mend:
            return
        known = known_roster(self._home).version
        with registry(self._home, self._keys(), address) as stub:
            newer = stub.GetRoster(pb.GetRosterCall(known_version=known), timeout=CALL_S).roster
        told = "has a newer roster; a running site fetches it" if newer else "has no newer roster"
        yield fine("membership", f"the registry takes this site as a member, and {told}")

    def agent(self) -> Iterator[Finding]:
        """Whether the agent answers, and what troubles it."""
        status = get_status(self._home.socket)
        if status is None:
            yield doubtful("agent", "no agent answers", f"bottega site start --home {self._home.root}")
            return
        yield fine("agent", status.doing or "up")
        if status.standing.trouble:
            yield wrong("contact", status.standing.trouble, "See the checks above; the site goes on trying.")
        elif (at := status.standing.last_contact_ms) and (ago := _since(at)) > QUIET:
            yield doubtful("contact", f"the registry was last reached {age(ago)} ago", "See the checks above.")
        if status.confinement.startswith(CONFINED):
            yield fine("confinement", status.confinement)
        else:
            mend = "See docs/guides/confinement.md; where the kernel cannot, a container or a user of its own does it."
            yield doubtful("confinement", status.confinement or "the agent does not say", mend)

    def drawings(self) -> Iterator[Finding]:
        """How many drawings there are, and nothing else of them."""
        settings = self._settings()
        found = load_drawings(Path(settings.data), settings.drawings)
        told = f"{len(found.train)} to train on, {len(found.held_out)} held out, {sum(found.skipped.values())} skipped"
        if len(found.train) < _FEW:
            yield wrong("drawings", told, "Add drawings; `bottega data check DIR` says what was skipped and why.")
        elif found.skipped.get(Skip.NO_CAPTION):
            yield doubtful("drawings", told, "Some have no caption; `bottega data check DIR` says how many.")
        else:
            yield fine("drawings", told)

    def base(self) -> Iterator[Finding]:
        """Whether the base model loads."""
        from common.models import load_base  # noqa: PLC0415 (seconds of imports; a fault above is told without them)

        base = load_base(self._settings().base)
        yield fine("base", f"{base.source} loads, {base.pixels} pixels, digest {base.digest[:16]}")

    def _settings(self) -> SiteSettings:
        return read_toml(SiteSettings, self._home.settings)

    def _me(self) -> SpiffeId:
        return SpiffeId(self._settings().federation, Role.SITE, self._settings().name)

    def _keys(self) -> MemberKeys:
        return MemberKeys.load(open_key_folder(self._home), self._me())

    def _authority(self) -> bytes:
        return read_public(self._home.authority_certificate, error=IdentityError)


def _since(ms: int) -> dt.timedelta:
    return dt.timedelta(seconds=time.time() - ms / 1000)
