"""Content credentials of pictures (C2PA): that a model drew them, and which, signed and embedded in the file.

The key is the machine's own, made on first use with a certificate chain of its own, since no authority can be asked
offline: so a credential proves that one key signed a picture, not whose key it is. No name of a person, a machine or a
studio is in it.
"""

from __future__ import annotations

import io
import json
import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from common.errors import AdapterError, ProvenanceError
from common.export import WEIGHTS
from deploy.credential_key import make_key
from security.content_id import content_id
from security.files import locked, read_private, write_new
from security.manifest import MANIFEST, size_and_digest
from security.provenance import examine

KEY_FILE = "credentials.pem"
"""The key and its certificates, in one file, so that neither is ever without the other."""

LABEL = "bottega.drawing"
"""Of our own assertion. (The standard wants a domain name that one owns; this project owns none, and this is none.)"""

MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_READING = {"verify": {"verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False}}
_SIGNING = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {**_READING["verify"], "verify_after_sign": True},
}


@dataclass(frozen=True)
class Credentials:
    """What signs pictures.

    Attributes:
        key: Ed25519.
        chain: Its certificate and that of the authority it was made with, PEM.
    """

    key: Ed25519PrivateKey
    chain: bytes

    @classmethod
    def in_folder(cls, folder: Path) -> Credentials:
        """Return what is in a folder; made there when there is none yet.

        Raises:
            ProvenanceError: It cannot be read or written, or others may read it.
        """
        file = folder / KEY_FILE
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as cause:
            raise ProvenanceError(
                "there is no folder for the key of content credentials", got=cause.strerror, expected=str(folder),
                advice="Name another with --credentials, or draw with --no-credentials.",
            ) from None  # fmt: skip
        with locked(folder / ".lock", error=ProvenanceError):
            if not file.exists():
                write_new(file, make_key(), error=ProvenanceError)
        return cls._read(file)

    @classmethod
    def _read(cls, file: Path) -> Credentials:
        content = read_private(file, error=ProvenanceError)
        try:
            key = load_pem_private_key(content, None)
            chain = x509.load_pem_x509_certificates(content)
        except (ValueError, TypeError):
            key, chain = None, []
        if not isinstance(key, Ed25519PrivateKey) or not chain or chain[0].public_key() != key.public_key():
            raise ProvenanceError(
                "the key of content credentials cannot be read", got=str(file), expected="what was made there",
                advice="Move the file away, and a new key is made; or draw with --no-credentials.",
            )  # fmt: skip
        return cls(key, b"".join(one.public_bytes(Encoding.PEM) for one in chain))

    def signed(self, png: bytes, facts: dict[str, Any]) -> bytes:
        """Return a picture with its credentials embedded.

        Args:
            png: The picture.
            facts: What is said of it besides that a model drew it; JSON.

        Raises:
            ProvenanceError: It cannot be signed.
        """
        import c2pa  # noqa: PLC0415 (22 MB of library, which only drawing needs)

        out = io.BytesIO()
        try:
            with (
                c2pa.Context(c2pa.Settings.from_dict(_SIGNING)) as context,
                c2pa.Signer.from_callback(self.key.sign, c2pa.C2paSigningAlg.ED25519, self.chain.decode()) as signer,
                c2pa.Builder(json.dumps(_claim(facts)), context=context) as builder,
            ):
                builder.sign(signer, "image/png", io.BytesIO(png), out)
        except c2pa.C2paError as cause:
            raise ProvenanceError(
                "a picture cannot be given content credentials", got=type(cause).__name__.lstrip("_"),
                advice="Move the key away, and a new one is made; or draw with --no-credentials.",
            ) from None  # fmt: skip
        return out.getvalue()


def read_credentials(png: bytes) -> dict[str, Any] | None:
    """Return our assertion in a picture's credentials; None where the picture has none.

    Raises:
        ProvenanceError: The credentials do not hold: the picture or they were changed.
    """
    import c2pa  # noqa: PLC0415

    try:
        with (
            c2pa.Context(c2pa.Settings.from_dict(_READING)) as context,
            c2pa.Reader("image/png", io.BytesIO(png), context=context) as reader,
        ):
            active, state = reader.get_active_manifest(), reader.get_validation_state()
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError:
        raise ProvenanceError("the content credentials of this picture cannot be read") from None
    if active is None or state not in {"Valid", "Trusted"}:
        raise ProvenanceError("the content credentials of this picture do not hold", got=state)
    # Whoever signed wrote these, so they need not be of the shape that this project writes.
    found = {one.get("label"): one.get("data") for one in active.get("assertions", [])}
    ours, actions = found.get(LABEL), found.get("c2pa.actions.v2")
    done = actions.get("actions") if isinstance(actions, dict) else None
    return {**(ours if isinstance(ours, dict) else {}), "actions": done if isinstance(done, list) else []}


def facts_of(base_digest: str, adapter: Path | None) -> dict[str, Any]:
    """Return what credentials say of the model that drew.

    Args:
        base_digest: SHA-256 over the base's weights, hex.
        adapter: The folder or the file of its adapter's weights; None for the bare base.

    Raises:
        ProvenanceError: The adapter has a manifest that does not hold, so what it says cannot be repeated.
        AdapterError: The adapter cannot be read.
    """
    facts: dict[str, Any] = {"base_digest": base_digest}
    if adapter is None:
        return facts
    weights = adapter / WEIGHTS if adapter.is_dir() else adapter
    try:
        digest = size_and_digest(weights)[1]
    except OSError as cause:
        raise AdapterError("the adapter file cannot be read", got=cause.strerror) from None
    facts |= {"adapter_sha256": digest.hex(), "adapter_cid": content_id(digest)}
    if not (weights.parent / MANIFEST).exists():
        return facts
    found = examine(weights, [])
    if found.contradictions or found.manifest is None:
        raise ProvenanceError(
            "the adapter's manifest does not hold", got=f"wrong: {'; '.join(one.what for one in found.contradictions)}",
            expected="the files as they were released",
            advice="See `bottega adapter verify`; to draw all the same, without saying from what: --no-credentials.",
        )  # fmt: skip
    told = found.manifest
    return {
        **facts,
        "federation": told.federation,
        "run": told.run,
        "round": told.round,
        # By the adapter's own word: who reads this can hold the key to what the federation says its key is.
        "federation_key": str(found.key),
    }


def default_folder() -> Path:
    """Return where a person's key lies: in their configuration (XDG Base Directory)."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".config") / "bottega"


def _claim(facts: dict[str, Any]) -> dict[str, Any]:
    software = {"name": "bottega", "version": version("bottega")}
    created = {"action": "c2pa.created", "digitalSourceType": MADE_BY_A_MODEL, "softwareAgent": software}
    return {
        "claim_generator_info": [software],
        "title": "drawing",
        "format": "image/png",
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
            {"label": LABEL, "data": facts},
        ],
    }
