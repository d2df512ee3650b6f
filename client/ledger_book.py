"""What a site keeps of its federation's ledger: the checkpoints that it witnesses, and the receipts of its own answers.

Tasks show it the ledger, and so does the registry when the keeper looks. Both go the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from client.receipts import Receipt, Receipts
from client.witness import Prove, Witness
from common.errors import LedgerError
from common.paths import SiteHome
from common.proto import bottega_pb2 as wire
from common.proto import registry_pb2 as pb
from common.proto import registry_pb2_grpc as rpc
from security.calling import CALL_S, registry
from security.checkpoint import read_checkpoint
from security.identity import Identity
from security.keys import VerifyKey
from security.member import MemberKeys


class LedgerBook:
    """One site's book. Safe to use from several threads.

    Args:
        folder: Where it is kept.
        me: The site's own keys.
        server: Returns the key that the federation's server signs with.
        prove: Asks the registry for a proof; None where there is no registry.
    """

    def __init__(self, folder: Path, me: Identity, server: Callable[[], VerifyKey], prove: Prove | None = None) -> None:
        self.witness, self.receipts = Witness(folder, me, server, prove), Receipts(folder / "receipts", me.id)
        self._server = server

    def see(self, shown: wire.Shown) -> bytes:
        """Check what the site is shown, keep it, and return its line on the checkpoint.

        Raises:
            LedgerError: The ledger was changed, that cannot be checked, or a receipt does not hold.
        """
        if not shown.checkpoint:
            raise LedgerError(
                "the task shows nothing of the federation's ledger", expected="its latest checkpoint",
                advice="Nothing was trained. The server has to keep a ledger; its operator may have to upgrade it.",
            )  # fmt: skip
        growths = {one.size: tuple(one.consistency) for one in shown.growths}
        line = self.witness.see(shown.checkpoint, growths)
        receipts = [Receipt(shown.checkpoint, one.index, one.entry, tuple(one.inclusion)) for one in shown.receipts]
        self.receipts.take(receipts, self._server())
        return line

    def sent(self, run: str, number: int, sealed: bytes) -> None:
        """Remember an answer by the SHA-256 of its sealed body, before it is sent."""
        self.receipts.sent(run, number, sealed)

    def look(self, stub: rpc.RegistryStub) -> None:
        """Ask the registry for the latest checkpoint and receipts, and co-sign it.

        Raises:
            LedgerError: As :meth:`see`.
            grpc.RpcError: The server refuses, or does not answer.
        """
        last = self.witness.last
        call = pb.GetLedgerCall(known_size=last.checkpoint.size if last else 0, receipts_from=self.receipts.next_index)
        shown = stub.GetLedger(call, timeout=CALL_S)
        line = self.see(shown)
        size = read_checkpoint(shown.checkpoint).size
        if last is None or size > last.checkpoint.size:
            stub.Cosign(pb.CosignCall(size=size, line=line), timeout=CALL_S)


def book_of(home: SiteHome, keys: MemberKeys, server: Callable[[], VerifyKey], address: str = "") -> LedgerBook:
    """Return the book in a site's home.

    Args:
        home: The site's.
        keys: Its own.
        server: Returns the key that the federation's server signs with.
        address: Host and port of the registry; empty where there is none.
    """
    prove = partial(_proved, home, keys, address) if address else None
    return LedgerBook(home.witness, keys.identity, server, prove)


def _proved(home: SiteHome, keys: MemberKeys, address: str, old: int, new: int) -> tuple[bytes, ...]:
    with registry(home, keys, address) as stub:
        return tuple(stub.GetConsistency(pb.GetConsistencyCall(old=old, new=new), timeout=CALL_S).consistency)
