"""How a server is: what it does (the status), and whether anything is wrong with it (the doctor).

Both look at the home and at the ports from beside the server, whether it runs or not, and change nothing.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from cryptography import x509

from common.checkup import Check, Finding, doubtful, fine, wrong
from common.errors import BottegaError, ProcessError
from common.machine_checks import disk, modes, versions
from common.paths import ServerHome
from common.settings import read_toml
from security.authority import Authority, load_certificate
from security.files import read_public
from security.key_folder import open_key_folder
from security.keys import load_tls_key
from security.tls_checks import certificate, reach
from server.figures import Figures, damage, read_figures
from server.house import TLS_KEY, House, open_house
from server.ports import read_ports
from server.presence import online_sites, standings
from server.settings import ServerSettings

_LOOK_S = 2.0
_DRIFT_S = 5.0
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (looked for, not listened on)


def server_status(home: ServerHome) -> dict[str, Any]:
    """Return what a server is doing, as JSON would have it. Times are RFC 3339; what is not known is None.

    Raises:
        BottegaError: There is no federation in this folder, or its home cannot be read.
    """
    house, ports, figures = open_house(home), open_ports(home), read_figures(home.database)
    roster = house.roster
    standing = standings(roster, figures.applicants)
    return {
        "up": bool(ports),
        "since": _moment(ports.get("since")),
        "federation": house.settings.federation,
        "reached_by": house.settings.reached_by,
        "ports": {name: number for name, number in ports.items() if name not in ("pid", "since")},
        "members": _tally(standing),
        "waiting": [f"{role} {name}" for role, name, status in standing if status == "waiting"],
        "online": _online(house, ports),
        "runs": figures.runs,
        "last_runs": [{"run": run, "status": status} for run, status in figures.last],
        "rounds": figures.rounds,
        "certificates": {
            name: load_certificate(path).not_valid_after_utc.isoformat()
            for name, path in (("server", home.certificate), ("authority", home.authority_certificate))
        },
        "roster_version": roster.version,
        "disk_free_bytes": shutil.disk_usage(home.root).free,
    }


def open_ports(home: ServerHome) -> dict[str, int]:
    """Return the ports of the server of a home, by name, when it runs and answers; nothing when it does not."""
    try:
        ports = read_ports(home)
    except ProcessError:
        return {}
    return ports if _answers("127.0.0.1", ports.get("control", 0)) else {}


def server_checks(home: ServerHome) -> list[tuple[str, Check]]:
    """Return the checks of a server, in the order in which a fault in one explains those after it."""
    patient = _Patient(home)
    return [
        ("settings", patient.settings_fit),
        (
            "permissions",
            lambda: modes(
                (home.root, home.keys, home.flower, home.runs, *home.operator.folders),
                home.keys,
                home.vault_key,
                home.database,
            ),
        ),
        ("keys", patient.keys),
        ("authority", patient.authority),
        ("certificate", patient.certificate),
        ("name", patient.name),
        ("roster", patient.roster),
        ("store", patient.store),
        ("clock", patient.clock),
        ("ports", patient.ports),
        ("from outside", patient.outside),
        ("disk", lambda: disk(home.root)),
        ("versions", versions),
    ]


class _Patient:
    """A server's home that is looked at. Each method is a check (:func:`~common.checkup.examine`)."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home

    def settings_fit(self) -> Iterator[Finding]:
        """Whether server.toml can be read."""
        yield fine("settings", f"{self._settings().federation}, reached by {self._settings().reached_by}")

    def keys(self) -> Iterator[Finding]:
        """Whether the server's keys are there and belong together."""
        open_house(self._home)
        keys = open_key_folder(self._home)
        Authority.load(keys)
        key = load_tls_key(keys, TLS_KEY)
        if key.public_key() == load_certificate(self._home.certificate).public_key():
            yield fine("keys", "signing, sealing, TLS and authority keys can be read")
        else:
            yield wrong("keys", "the TLS key is not the certificate's", "Restore keys and server.crt from one backup.")

    def authority(self) -> Iterator[Finding]:
        """Whether the authority's certificate holds."""
        mend = "A federation ends with its authority: found a new one and invite everybody again."
        yield from certificate("authority", self._home.authority_certificate, renew=mend)

    def certificate(self) -> Iterator[Finding]:
        """Whether the server's certificate holds."""
        mend = f"Start the server again: it issues itself a new one (`bottega server start --home {self._home.root}`)."
        issuer = load_certificate(self._home.authority_certificate)
        yield from certificate("certificate", self._home.certificate, renew=mend, issuer=issuer)

    def name(self) -> Iterator[Finding]:
        """Whether the certificate is for the name that sites are told."""
        reached_by, names = self._settings().reached_by, _names(load_certificate(self._home.certificate))
        if reached_by.lower() in names:
            yield fine("name", f"the certificate holds {reached_by}")
            return
        mend = (
            f"Set `reached_by` in server.toml to one of {', '.join(sorted(names))}. A certificate keeps the names that "
            "it was made with: for another name found the federation with `bottega server init --host NAME`."
        )
        yield wrong("name", f"sites are told {reached_by}, which the certificate does not hold", mend)

    def roster(self) -> Iterator[Finding]:
        """Whether the roster is the server's own."""
        roster = open_house(self._home).roster
        told = f"version {roster.version}, {len(roster)} active members, signed by this server"
        if self._home.restored.exists():
            mend = (
                "When members have called: bottega server restored; until then nobody is let in or out, no run starts."
            )
            yield doubtful("roster", f"{told}; restored from a backup, so members may know a later one", mend)
        else:
            yield fine("roster", told)

    def store(self) -> Iterator[Finding]:
        """Whether the SQLite file is sound."""
        if not self._home.database.exists():
            yield fine("store", "not made yet; the first start makes it")
        elif found := damage(self._home.database):
            yield wrong("store", found, "Stop the server, move bottega.db aside and restore it from a backup.")
        else:
            yield fine("store", "every page of it is sound")

    def clock(self) -> Iterator[Finding]:
        """Whether anything that was written here is later than now: then this clock, or the one then, is wrong."""
        written = {
            "the certificate": load_certificate(self._home.certificate).not_valid_before_utc.timestamp(),
            "the roster": open_house(self._home).roster.created_at_ms / 1000,
            "the store": self._figures().newest_s,
        }
        late = {name: seconds - time.time() for name, seconds in written.items() if seconds > time.time() + _DRIFT_S}
        if not late:
            yield fine(
                "clock", "later than all that was written here; sites compare theirs with it in their own doctor"
            )
        for name, seconds in late.items():
            found = f"{name} is from {seconds:.0f} s in the future"
            yield wrong("clock", found, "Have this machine's clock set by a time server (timedatectl set-ntp true).")

    def ports(self) -> Iterator[Finding]:
        """Whether the ports are open, or at least free."""
        settings, ports = self._settings(), open_ports(self._home)
        if not ports:
            mend = f"bottega server start --home {self._home.root}"
            yield doubtful("up", "the server does not run, or does not answer", mend)
            yield from _free_ports(settings)
            return
        hosts = {"control": "127.0.0.1", "metrics": settings.metrics_host}
        for name in ("fleet", "registry", "control", "metrics"):
            host = _here(hosts.get(name, settings.host))
            if _answers(host, ports.get(name, 0)):
                yield fine(f"port {ports[name]}", f"{name} listens on {host}")
            else:
                yield wrong(f"port {ports.get(name)}", f"{name} does not listen on {host}", "Start the server again.")

    def outside(self) -> Iterator[Finding]:
        """Whether the public ports answer under the name that sites are told."""
        settings, ports = self._settings(), open_ports(self._home)
        if not ports:
            return
        authority = read_public(self._home.authority_certificate, error=ProcessError)
        for name, protocol in (("fleet", "http/1.1"), ("registry", "h2")):
            found, _ = reach(f"{name} outside", f"{settings.reached_by}:{ports[name]}", authority, protocol)
            yield found
        yield fine("beyond", "a firewall beyond this machine cannot be seen from here; `bottega site doctor` sees it")

    def _settings(self) -> ServerSettings:
        return read_toml(ServerSettings, self._home.settings)

    def _figures(self) -> Figures:
        return read_figures(self._home.database)


def _free_ports(settings: ServerSettings) -> Iterator[Finding]:
    wanted = [
        ("fleet", settings.host, settings.fleet_port), ("registry", settings.host, settings.registry_port),
        ("join", settings.host, settings.door_port), ("control", "127.0.0.1", settings.control_port),
        ("metrics", settings.metrics_host, settings.metrics_port),
    ]  # fmt: skip
    for name, host, port in wanted:
        if port and (why := _cannot_be_taken(host, port)):
            mend = f"Stop what uses it (ss -ltnp 'sport = :{port}'), or set another port in server.toml."
            yield wrong(f"port {port}", f"{name} could not listen on {host}: {why}", mend)


def _cannot_be_taken(host: str, port: int) -> str:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as why:
            return why.strerror or type(why).__name__
    return ""


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), _LOOK_S):
            return True
    except OSError:
        return False


def _here(host: str) -> str:
    return "127.0.0.1" if host in _EVERYWHERE else host


def _names(found: x509.Certificate) -> set[str]:
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [
        address
        for address in names.get_values_for_type(x509.IPAddress)
        if isinstance(address, ipaddress.IPv4Address | ipaddress.IPv6Address)
    ]
    return {name.lower() for name in names.get_values_for_type(x509.DNSName)} | {str(address) for address in addresses}


def _online(house: House, ports: dict[str, int]) -> list[str] | None:
    try:
        return online_sites(f"127.0.0.1:{ports['control']}", house) if ports else None
    except BottegaError:
        return None


def _tally(standing: list[tuple[str, str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (role, status), count in sorted(Counter((role, status) for role, _, status in standing).items()):
        found.setdefault(role, {})[status] = count
    return found


def _moment(seconds: int | None) -> str | None:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat() if seconds else None
