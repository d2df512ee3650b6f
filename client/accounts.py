"""What a site's budget record comes to, worked out beside those who ask: adding up what was spent takes seconds.

It reads the record through a :class:`~client.budget.Budget` of its own, and writes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from client.budget import Account, Budget
from client.budget_settings import BudgetSettings
from common.errors import BottegaError
from common.paths import SiteHome
from security.key_folder import open_vault

log = logging.getLogger("bottega.site")


class Accounts:
    """The accounts of a site's drawings, as of late.

    Args:
        home: The site's.
        settings: What may be spent.
    """

    def __init__(self, home: SiteHome, settings: BudgetSettings) -> None:
        self._home, self._settings = home, settings
        self._lock, self._working = threading.Lock(), False
        self._budget: Budget | None = None
        self._read = -1
        self._found: Sequence[Account] | None = None
        self._trouble: BottegaError | None = None

    def latest(self) -> Sequence[Account] | None:
        """Return the accounts as they were last worked out, None before that; have them worked out if there is more.

        Raises:
            BottegaError: The record could not be read when that was last tried.
        """
        entries = sum(1 for _ in self._home.budget.glob("*.entry"))
        with self._lock:
            if (entries != self._read or self._trouble) and not self._working:
                self._working = True
                threading.Thread(target=self._work_out, args=(entries,), name="accounts", daemon=True).start()
            if self._trouble is not None:
                raise self._trouble.with_traceback(None)  # raised again and again, it would gather them
            return self._found

    def _work_out(self, entries: int) -> None:
        found: Sequence[Account] | None = None
        trouble: BottegaError | None = None
        try:
            if self._budget is None and self._home.budget.is_dir():
                self._budget = Budget(self._home.budget, open_vault(self._home), self._settings)
            found = self._budget.report() if self._budget else ()
        except BottegaError as why:
            trouble = why
        except Exception:
            log.exception("what was spent of the privacy budget cannot be told")
        finally:
            with self._lock:
                self._working, self._read = False, entries
                self._trouble = trouble
                if trouble is None:
                    self._found = found
