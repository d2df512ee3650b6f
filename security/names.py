"""SPIFFE ids: who somebody is, in one federation, in one role."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from common.errors import IdentityError

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(_LABEL)
_FEDERATION = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SPIFFE_ID = re.compile(r"spiffe://([^/]+)/([^/]+)/([^/]+)")
_LONGEST_FEDERATION = 253  # as a DNS name; with role and name well under SPIFFE's 2048 bytes

_NAME_RULE = "lower-case letters, digits and inner hyphens, at most 63 (as a DNS label)"


class Role(StrEnum):
    """What somebody is in the federation."""

    SITE = "site"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    SERVER = "server"


def shown(text: str) -> str:
    """Return text that a stranger wrote, made safe to print: quoted, escaped and cut to 80 characters."""
    return ascii(text if len(text) <= 80 else f"{text[:77]}...")


@dataclass(frozen=True, order=True)
class SpiffeId:
    """A SPIFFE id, ``spiffe://<federation>/<role>/<name>`` (SPIFFE-ID standard, section 2).

    Stricter than the standard: lower case only, no underscores, and just these three parts, so that a name is
    also a valid DNS label, file name and certificate name, and each id has one spelling.

    Args:
        federation: The trust domain: one or more DNS labels joined by dots.
        role: What they are.
        name: One DNS label.

    Raises:
        IdentityError: A part is not as described.
    """

    federation: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        if len(self.federation) > _LONGEST_FEDERATION or not _FEDERATION.fullmatch(self.federation):
            raise IdentityError(
                "this is no name for a federation",
                got=shown(self.federation),
                expected=f"labels of {_NAME_RULE}, joined by dots",
                advice="Choose another name.",
            )
        if not isinstance(self.role, Role):
            raise IdentityError("this is no role", got=shown(str(self.role)), expected=" or ".join(Role))
        if not _NAME.fullmatch(self.name):
            raise IdentityError(
                f"this is no name for a {self.role}",
                got=shown(self.name),
                expected=_NAME_RULE,
                advice="Choose another name.",
            )

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Read an id as :func:`str` writes it.

        Args:
            text: From anywhere.

        Returns:
            The id; ``str`` of it is ``text`` again.

        Raises:
            IdentityError: It is not an id of this form.
        """
        parts = _SPIFFE_ID.fullmatch(text)
        if parts is None:
            raise IdentityError("this is no SPIFFE id", got=shown(text), expected="spiffe://<federation>/<role>/<name>")
        federation, role, name = parts.groups()
        if role not in set(Role):
            raise IdentityError("this SPIFFE id has no known role", got=shown(role), expected=" or ".join(Role))
        return cls(federation, Role(role), name)

    def __str__(self) -> str:
        """Return the id as a URI."""
        return f"spiffe://{self.federation}/{self.role}/{self.name}"
