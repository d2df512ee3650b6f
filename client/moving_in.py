"""Moving in: what a grant holds becomes a home. Its settings, written last, say that it is whole."""

from __future__ import annotations

import tomli_w
from cryptography.hazmat.primitives.serialization import Encoding

from client.settings import SiteSettings
from client.settling import join, settle
from common.errors import HomeError
from common.paths import MemberHome, SiteHome
from common.settings import MemberSettings, parse
from security.authority import save_certificate
from security.enrolment import Grant
from security.files import replace


def move_in_site(home: SiteHome, grant: Grant, data: str) -> SiteSettings:
    """Make a site's home of a grant. A site that lives there already keeps its settings and gets the new certificate.

    Args:
        home: Where.
        grant: As :func:`~security.enrolment.open_grant` returned it.
        data: The folder of drawings; kept in ``site.toml``, not looked at.

    Raises:
        HomeError: A file cannot be written.
        IdentityError: The server is not the one that was pinned, or its roster may not follow on the known one.
        SettingsError: The grant's settings do not fit.
    """
    settings = parse(SiteSettings, {**_told(grant, "fleet"), "data": data}, "the grant")
    _keep(home, grant)
    if not home.settings.exists():
        settle(home, settings)
    return settings


def move_in_member(home: MemberHome, grant: Grant) -> MemberSettings:
    """Make the home of an operator or auditor of a grant; done again, it gets the new certificate.

    Raises:
        BottegaError: As :func:`move_in_site`.
    """
    settings = parse(MemberSettings, {**_told(grant), "role": grant.member.id.role.value}, "the grant")
    _keep(home, grant)
    replace(home.settings, [tomli_w.dumps(settings.model_dump(mode="json")).encode()], error=HomeError)
    return settings


def _told(grant: Grant, fleet: str | None = None) -> dict[str, object]:
    who = grant.member.id
    told: dict[str, object] = {
        "federation": who.federation, "name": who.name, "registry": grant.settings.get("registry"),
    }  # fmt: skip
    return told if fleet is None else {**told, "server": grant.settings.get(fleet)}


def _keep(home: MemberHome, grant: Grant) -> None:
    join(home, grant.server, grant.roster, grant.authority.public_bytes(Encoding.PEM))
    save_certificate(home.certificate, grant.certificate)
