"""The operator who founded the federation: their keys live in the server's home, and sign what is started from there.

Others join with an invitation and work from a home of their own; this one is there from the beginning, so that a new
federation can start a run.
"""

from __future__ import annotations

import tomli_w

from common.errors import HomeError
from common.paths import MemberHome
from common.settings import MemberSettings, read_toml
from security.enrolment import MemberKeys, Newcomer
from security.files import write_new
from security.key_folder import make_key_folder, open_key_folder
from security.names import Role, SpiffeId


def settle_operator(home: MemberHome, settings: MemberSettings) -> Newcomer:
    """Make an operator's home and keys, or go on where that was interrupted; return the public half of the keys.

    Raises:
        HomeError: The home cannot be written.
        IdentityError: A name does not fit, or a key that is there is damaged.
    """
    for folder in (home.root, home.keys):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = MemberKeys.create(make_key_folder(home), SpiffeId(settings.federation, Role(settings.role), settings.name))
    if not home.settings.exists():
        write_new(home.settings, tomli_w.dumps(settings.model_dump(mode="json")).encode(), error=HomeError)
    return keys.public


def load_operator(home: MemberHome) -> MemberKeys:
    """Return the name and keys of the member who lives in a home.

    Raises:
        HomeError: Nobody does.
        IdentityError: A key is missing or damaged.
    """
    if not home.settings.is_file():
        raise HomeError("no operator lives in this folder", got=str(home.root), expected=f"{home.settings.name} in it")
    settings = read_toml(MemberSettings, home.settings)
    return MemberKeys.load(open_key_folder(home), SpiffeId(settings.federation, Role(settings.role), settings.name))
