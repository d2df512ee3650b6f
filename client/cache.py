"""Encoded drawings kept between starts, encrypted, inside the site's home.

A cache is the site's own: its file is named by a digest over everything it was made from (base, drawings, captions,
augmentation), so another base or a changed folder simply makes another one, and older ones are thrown away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from client.dataset import TrainingSet
from client.drawings import Drawing
from client.settings import SiteSettings
from common.errors import VaultError
from common.models import Base
from common.paths import SiteHome
from security.key_folder import open_vault

_WAY = "one by one"
"""How drawings are encoded. In the name of the file, so that what was made in another way is not taken for it."""


def kept(
    home: SiteHome,
    name: str,
    base: Base,
    drawings: Sequence[Drawing],
    settings: SiteSettings,
    make: Callable[[], TrainingSet],
) -> TrainingSet:
    """Return what ``make`` returned when it was last called for the same base, drawings and settings.

    Args:
        home: The site's.
        name: Which split: its older files are removed.
        base: The base that encodes.
        drawings: The split.
        settings: The site's; those of augmentation count.
        make: Encodes; called when there is no file, or one that does not open.

    Raises:
        VaultError: The file cannot be written.
    """
    vault = open_vault(home)
    file = home.cache / f"{name}-{_digest(base, drawings, settings)}.sealed"
    try:
        tensors = load(bytes(vault.read(file, name.encode())))
        return TrainingSet(tensors["views"], tensors["states"], tensors["caption"])
    except (VaultError, SafetensorError, KeyError):
        made = make()
    for older in home.cache.glob(f"{name}-*.sealed"):
        older.unlink()
    tensors = {"views": made.views.contiguous(), "states": made.states.contiguous(), "caption": made.caption}
    vault.write(file, save(tensors), name.encode())
    return made


def _digest(base: Base, drawings: Sequence[Drawing], settings: SiteSettings) -> str:
    sha = hashlib.sha256(f"{_WAY} {base.digest} {torch.__version__} {settings.views}".encode())
    sha.update(settings.augment.model_dump_json().encode() + settings.drawings.model_dump_json().encode())
    for drawing in drawings:
        sha.update(f"{drawing.digest}{hashlib.sha256(drawing.caption.encode()).hexdigest()}".encode())
    return sha.hexdigest()[:32]
