"""What a site's SuperNode has to know, and what else of ``site.toml`` is read before the imports that take seconds."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from common.errors import SettingsError
from common.settings import Settings, parse


class SuperNodeSettings(Settings):
    """One SuperNode; all that one apart from its agent is told (``supernode.toml``)."""

    server: str
    """Host and port of the server's fleet address, such as ``server.example:8440``."""
    confine: Literal["auto", "require", "off"] = "auto"
    """Whether SuperNode and couriers are shut in: as far as this machine can; that or no start; not at all."""

    @property
    def private(self) -> dict[str, Path]:
        """What of the site it must not see, by words for it; nothing that it knows of."""
        return {}


class SiteBasics(SuperNodeSettings):
    """Who a site is, and what its SuperNode has to know."""

    federation: str
    name: str
    data: str
    """The folder of drawings."""

    @property
    def private(self) -> dict[str, Path]:
        """What of the site its SuperNode must not see, by words for it."""
        return {"the drawings": Path(self.data)}


def read_basics(file: Path) -> SiteBasics:
    """Return the basics of a ``site.toml``; what else stands there is not looked at.

    Raises:
        SettingsError: The file cannot be read, or one of them does not fit.
    """
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise SettingsError(f"{file.name} cannot be read", got=str(cause)) from None
    return parse(SiteBasics, {name: values[name] for name in SiteBasics.model_fields if name in values}, file.name)
