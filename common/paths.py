"""Where things lie in the homes of a server, a site and other members. Paths only: nothing here reads or writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MOST_SOCKET_BYTES = 107
"""Longest path of a UNIX socket on Linux (sun_path without its final zero)."""


@dataclass(frozen=True)
class MemberHome:
    """The home of a member of a federation: an operator's or an auditor's; a site's has more."""

    root: Path

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the home, itself first; each 0700."""
        return (self.root, self.keys)

    @property
    def settings(self) -> Path:
        """``member.toml``."""
        return self.root / "member.toml"

    @property
    def keys(self) -> Path:
        """The member's own keys, each 0600."""
        return self.root / "keys"

    @property
    def vault_key(self) -> Path:
        """The data key of the home's vault, bare or under a passphrase."""
        return self.root / "vault.key"

    @property
    def certificate(self) -> Path:
        """The member's own certificate for the registry, PEM; renewed in place."""
        return self.root / "member.crt"

    @property
    def authority_certificate(self) -> Path:
        """The pinned certificate of the federation's authority, PEM."""
        return self.root / "ca.crt"

    @property
    def roster(self) -> Path:
        """Who belongs to the federation, as the server signed it and this member accepted it last."""
        return self.root / "roster.signed"

    @property
    def pinned_server(self) -> Path:
        """The federation's server and its keys as they were when the member joined, JSON; never overwritten."""
        return self.root / "server.json"


@dataclass(frozen=True)
class ServerHome:
    """The home of a federation server."""

    root: Path

    @property
    def settings(self) -> Path:
        """``server.toml``."""
        return self.root / "server.toml"

    @property
    def keys(self) -> Path:
        """Signing, sealing, TLS and authority keys, each 0600."""
        return self.root / "keys"

    @property
    def vault_key(self) -> Path:
        """The data key of the home's vault, bare or under a passphrase."""
        return self.root / "vault.key"

    @property
    def certificate(self) -> Path:
        """The server's TLS certificate, PEM."""
        return self.root / "server.crt"

    @property
    def authority_certificate(self) -> Path:
        """The certificate of the federation's authority, PEM; sites pin it."""
        return self.root / "ca.crt"

    @property
    def roster(self) -> Path:
        """Who belongs to the federation, as the server signed it last."""
        return self.root / "roster.signed"

    @property
    def roster_lock(self) -> Path:
        """Held by whoever makes the next roster, so that no two have one version."""
        return self.root / "roster.lock"

    @property
    def restored(self) -> Path:
        """It exists from a restore until the operator says that members have brought back what they know."""
        return self.root / "restored"

    @property
    def operator(self) -> MemberHome:
        """The home of the operator who founded the federation: runs that are started here are signed by them."""
        return MemberHome(self.root / "operator")

    @property
    def database(self) -> Path:
        """The store: runs, rounds, verdicts."""
        return self.root / "bottega.db"

    @property
    def flower(self) -> Path:
        """What Flower keeps for itself: the SuperLink's state, couriers' ciphertext."""
        return self.root / "flower"

    @property
    def ports(self) -> Path:
        """The ports that a running server listens on, JSON; it exists while the server is up."""
        return self.root / "ports.json"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.root / "runs"

    def run(self, run: str) -> Path:
        """Return the folder of a run."""
        return self.runs / run

    def round(self, run: str, number: int) -> Path:
        """Return the folder of a round: its adapter and, while it is kept, its spool."""
        return self.run(run) / f"round-{number:04d}"

    def pictures(self, run: str) -> Path:
        """Return the folder of the pictures that were drawn with a run's adapters."""
        return self.run(run) / "samples"

    def picture(self, run: str, number: int) -> Path:
        """Return the picture that was drawn with the adapter of a round, PNG."""
        return self.pictures(run) / f"round-{number:04d}.png"

    def check_picture(self, run: str, number: int) -> Path:
        """Return the picture of the fixed prompts, without and with the adapter of a round, PNG."""
        return self.pictures(run) / f"check-{number:04d}.png"

    def spool(self, run: str, number: int) -> Path:
        """Return the folder where a round's sealed answers wait for its close."""
        return self.round(run, number) / "spool"


@dataclass(frozen=True)
class SiteHome(MemberHome):
    """The home of a site."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the home, itself first; each 0700."""
        return (self.root, self.keys, self.flower, self.cache)

    @property
    def settings(self) -> Path:
        """``site.toml``."""
        return self.root / "site.toml"

    @property
    def supernode_key(self) -> Path:
        """The key that Flower's SuperNode signs with: ECDSA P-384 in OpenSSH format."""
        return self.keys / "supernode"

    @property
    def nonces(self) -> Path:
        """The tasks that were answered lately; none is answered twice."""
        return self.root / "nonces.json"

    @property
    def witness(self) -> Path:
        """What the site has seen of its federation's ledger: the last checkpoint, receipts, evidence."""
        return self.root / "witness"

    @property
    def approvals(self) -> Path:
        """The studio's word on runs, one file each."""
        return self.root / "approvals"

    @property
    def cache(self) -> Path:
        """Encoded drawings, kept encrypted."""
        return self.root / "cache"

    @property
    def lock(self) -> Path:
        """Held by the one agent that may run here."""
        return self.root / "agent.lock"

    @property
    def budget(self) -> Path:
        """The record of the privacy budget: append-only, encrypted."""
        return self.root / "budget"

    @property
    def confinement(self) -> Path:
        """How the SuperNode that was started last is confined, JSON."""
        return self.root / "confinement.json"

    @property
    def share(self) -> Path:
        """What the SuperNode meets the agent in: its socket and, for a SuperNode apart, what that has to know."""
        return self.root / "share"

    @property
    def socket(self) -> Path:
        """Where the agent listens; owner only, or the group that the share is for."""
        return self.share / "agent.sock"

    @property
    def flower(self) -> Path:
        """What Flower keeps for itself."""
        return self.root / "flower"


@dataclass(frozen=True)
class SuperNodeHome:
    """The home of a SuperNode that runs apart from its agent, as a user of its own: no drawings, one key.

    Its share is the agent's (:attr:`SiteHome.share`), mounted here; the rest is its own.
    """

    root: Path

    @property
    def share(self) -> Path:
        """What the agent hands over; nothing is written there from here."""
        return self.root / "share"

    @property
    def settings(self) -> Path:
        """What the SuperNode has to know, TOML; written last."""
        return self.share / "supernode.toml"

    @property
    def supernode_key(self) -> Path:
        """As :attr:`SiteHome.supernode_key`."""
        return self.share / "supernode"

    @property
    def authority_certificate(self) -> Path:
        """The pinned certificate of the federation's authority, PEM."""
        return self.share / "ca.crt"

    @property
    def socket(self) -> Path:
        """Where the agent listens."""
        return self.share / "agent.sock"

    @property
    def lock(self) -> Path:
        """Held by the one SuperNode that may run here."""
        return self.root / "supernode.lock"

    @property
    def confinement(self) -> Path:
        """How the SuperNode that was started last is confined, JSON."""
        return self.root / "confinement.json"

    @property
    def flower(self) -> Path:
        """What Flower keeps for itself."""
        return self.root / "flower"


Home = MemberHome | ServerHome
"""Any home: it has keys, and a vault that they are in."""
