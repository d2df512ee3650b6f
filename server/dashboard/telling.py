"""Entries in a sentence, in the reader's language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from security.entries import Entry
    from server.dashboard.languages import Language


def tell(entry: Entry, t: Language) -> str:
    """Return what an entry says, in a sentence without a full stop. Reasons stay in the words they were given in."""
    said: dict[str, Any] = {name: getattr(entry, name) for name in type(entry).model_fields}
    if "member" in said:
        _, role, name = said["member"].rsplit("/", 2)
        said |= {"role": t(f"role.{role}"), "name": name}
    if "verdict" in said:
        said["verdict"] = t(f"verdict.{said['verdict']}")
    if "outcome" in said:
        said["outcome"] = t(f"outcome.{said['outcome']}")
    if "sites" in said:
        said["sites"] = ", ".join(said["sites"])
    if "before" in said:
        said |= {name: "?" if said[name] is None else t.figures(said[name]) for name in ("before", "after")}
    return t(_key(said), **said)


def _key(said: dict[str, Any]) -> str:
    """Return which sentence it is: of some kinds there are several."""
    kind = str(said["kind"])
    more = {"round-opened": "work", "run-ended": "status"}.get(kind)
    if more:
        return f"told.{kind}.{said[more]}"
    return "told.run-started.again" if said.get("resumed") else f"told.{kind}"
