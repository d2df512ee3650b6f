"""The manifest of a released adapter: what it was made of, by whom and under which protection, signed by the server.

It lies beside the weights as ``manifest.dsse.json``, a DSSE envelope (:mod:`security.dsse`) around canonical JSON
(RFC 8785). What it may say is decided here, as for entries of the ledger: never a drawing, a caption or the name of a
drawing's file, and a site by its name only where the site agreed to that.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from common.errors import LedgerError, ProvenanceError
from common.export import WEIGHTS
from security.canonical import canonical, parse_canonical
from security.content_id import content_id
from security.dsse import SignedContent, read_envelope, sign_content
from security.entries import MOST_WORDS, Digest, Moment, Name, Number, Real
from security.ledger_names import origin_of

if TYPE_CHECKING:
    from security.identity import Identity

MANIFEST = "manifest.dsse.json"
VKEY = "federation.vkey"
"""Beside it: the key that signed, as other programs take it (C2SP). It vouches for nothing: whoever changes the
manifest can change it too. It is there to be compared with what the federation says its key is."""

MEDIA_TYPE = "application/vnd.bottega.manifest+json"

MOST_MANIFEST_BYTES = 2**20
"""The longest envelope: 1 MiB, room for the sites and files of any release."""

MOST_REASON = 30 * MOST_WORDS
"""The longest reason, characters: that of an entry, with room for pseudonyms in place of names."""


def _visible(text: str) -> str:
    """Pass text that shows on a terminal as it is: no escapes, no marks that turn it around. Line ends may be there."""
    if not all(line.isprintable() for line in text.split("\n")):
        raise ValueError("a character that cannot be seen")
    return text


Text = Annotated[str, Field(max_length=MOST_WORDS), AfterValidator(_visible)]
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _Part(BaseModel):
    """What has no value is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @field_validator("*", mode="before")
    @classmethod
    def _lists_are_tuples(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_serializer(mode="wrap")
    def _without_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class BaseFacts(_Part):
    """The base model that the adapter was trained on: what the run's settings name it, and SHA-256 over its weights."""

    name: Text
    digest: Digest


class AdapterFacts(_Part):
    """How the adapter is made, and SHA-256 of its weights file."""

    method: Literal["ffa", "both", "core"]
    rank: Number
    targets: tuple[Text, ...]
    digest: Digest


class Taught(_Part):
    """A site whose updates are in the adapter, or may be.

    It is called what the ledger calls it where it agreed to be named, or else has a pseudonym
    (:mod:`security.pseudonyms`).
    """

    name: Name | None = None
    pseudonym: Annotated[str, Field(pattern=r"^anonymous-[0-9a-f]{16}$")] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.name is None) == (self.pseudonym is None):
            raise ValueError("a site has either a name or a pseudonym")
        return self

    def __str__(self) -> str:
        return self.name or str(self.pseudonym)


class DrawingPrivacy(_Part):
    """What each site promised each drawing, or each artist: the most that the run was allowed to cost."""

    unit: Literal["drawing", "artist"]
    epsilon: Real
    delta: Real


class SitePrivacy(_Part):
    """What the server promised each site as a whole."""

    epsilon: Real
    delta: Real


class ReleasedFile(_Part):
    """One file of the release. The CID is of the whole file as one raw block (:mod:`security.content_id`)."""

    name: Annotated[str, Field(pattern=rf"^{_FILE_NAME.pattern}$")]
    bytes: Annotated[int, Field(ge=0, lt=2**53)]
    sha256: Digest
    cid: Annotated[str, Field(max_length=64)]

    @model_validator(mode="after")
    def _named_by_its_digest(self) -> Self:
        if self.cid != content_id(bytes.fromhex(self.sha256)):
            raise ValueError("the CID is of something else than the SHA-256")
        return self


class Manifest(_Part):
    """What is said of a released adapter.

    Attributes:
        federation: Its trust domain, as in its members' SPIFFE ids.
        rounds: That changed the adapter, up to this one.
        rounds_ordered: That the run's operator ordered.
        taught: The sites whose updates are in it; how many they are is how many there are here. Left out where the
            sites themselves are protected: that a site's update is in the adapter is what their privacy hides.
        asked: In place of ``taught`` then: the sites that the run asks, whatever became of their answers.
        privacy: Of drawings; left out of a run without.
        against: What stood against the release; where sites are protected, not from which of them it came.
        despite: Why it was released all the same, in the operator's words; they, and ``against``, call sites what
            ``taught`` or ``asked`` calls them.
        checkpoint: Of the ledger when the adapter was released, a C2SP signed note: whoever has the ledger can see that
            it still has what it had then. The entry of the release itself follows it.
        files: In the order of their names, everything in the folder but the manifest and the key.
    """

    version: Literal[1] = 1
    federation: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,255}$")]
    released_at: Moment
    software: Text
    run: Annotated[str, Field(max_length=64), AfterValidator(_visible)]
    round: Number
    rounds: Annotated[int, Field(ge=0)]
    rounds_ordered: Number
    base: BaseFacts
    adapter: AdapterFacts
    taught: tuple[Taught, ...] | None = None
    asked: tuple[Taught, ...] | None = None
    privacy: DrawingPrivacy | None = None
    site_privacy: SitePrivacy | None = None
    against: tuple[Text, ...] = ()
    despite: Annotated[str, Field(max_length=MOST_REASON), AfterValidator(_visible)] | None = None
    checkpoint: Annotated[str, Field(max_length=10_000), AfterValidator(_visible)]
    files: tuple[ReleasedFile, ...]

    @model_validator(mode="after")
    def _files_fit(self) -> Self:
        names = [one.name for one in self.files]
        if names != sorted(set(names)) or {MANIFEST, VKEY} & set(names):
            raise ValueError("files are repeated or out of order")
        if {one.name: one.sha256 for one in self.files}.get(WEIGHTS) != self.adapter.digest:
            raise ValueError("the adapter is not among the files")
        return self

    @model_validator(mode="after")
    def _sites_are_told_as_their_privacy_allows(self) -> Self:
        protected = self.site_privacy is not None
        if (self.taught is None) is not protected or (self.asked is None) is protected:
            raise ValueError("who taught it is told where sites are not protected, and who was asked where they are")
        return self

    def file(self, name: str) -> ReleasedFile | None:
        """Return what is said of a file; None of one that is not in the release."""
        return next((one for one in self.files if one.name == name), None)


def files_in(folder: Path) -> tuple[ReleasedFile, ...]:
    """Describe the files of a folder that is about to be released.

    Raises:
        OSError: One cannot be read.
    """
    return tuple(_described(file) for file in sorted(folder.iterdir()) if file.name not in {MANIFEST, VKEY})


def _described(file: Path) -> ReleasedFile:
    size, digest = size_and_digest(file)
    return ReleasedFile(name=file.name, bytes=size, sha256=digest.hex(), cid=content_id(digest))


def size_and_digest(file: Path) -> tuple[int, bytes]:
    """Return a file's length in bytes and its SHA-256, 32 bytes, without holding it in memory.

    Raises:
        OSError: It cannot be read.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").digest()
        return content.tell(), digest


def sign_manifest(manifest: Manifest, server: Identity) -> bytes:
    """Return a manifest in an envelope, signed by the server of its federation.

    Raises:
        ProvenanceError: The server is another federation's, or the manifest is too long.
    """
    if server.id.federation != manifest.federation:
        raise ProvenanceError("a manifest is signed by the server of its federation", got=server.id)
    content = canonical(manifest.model_dump(mode="json"))
    data = sign_content(content, MEDIA_TYPE, origin_of(manifest.federation), server.signing)
    if len(data) > MOST_MANIFEST_BYTES:
        raise ProvenanceError("a manifest is too long", got=f"{len(data)} bytes", expected=f"<= {MOST_MANIFEST_BYTES}")
    return data


def read_manifest(data: bytes) -> tuple[Manifest, SignedContent]:
    """Return what a signed manifest says, and the envelope that it came in; nothing of it is verified yet.

    Guarantees: there is no other envelope with the same manifest and signature.

    Raises:
        ProvenanceError: It is no manifest, or another writing of one.
    """
    if len(data) > MOST_MANIFEST_BYTES:
        raise ProvenanceError("a manifest is too long", got=f"{len(data)} bytes", expected=f"<= {MOST_MANIFEST_BYTES}")
    envelope = read_envelope(data)
    if envelope.type != MEDIA_TYPE:
        raise ProvenanceError("what was signed is no manifest", expected=MEDIA_TYPE)
    try:
        manifest = Manifest.model_validate(parse_canonical(envelope.content))
    except LedgerError:
        raise ProvenanceError("this is no manifest", got="no canonical JSON") from None
    except ValidationError as cause:
        where = ".".join(str(part) for part in cause.errors(include_url=False)[0]["loc"]) or "the whole"
        raise ProvenanceError(
            "this is no manifest that this version knows", got=f"{where[:80]!r} does not fit"
        ) from None
    if canonical(manifest.model_dump(mode="json")) != envelope.content:
        raise ProvenanceError("a manifest is written otherwise than manifests are")
    return manifest, envelope


def read_manifest_file(file: Path) -> tuple[Manifest, SignedContent, bytes]:
    """Read a manifest as :func:`read_manifest` does, from a file; its bytes come third.

    Raises:
        ProvenanceError: It is missing, cannot be read, or is none.
    """
    try:
        with file.open("rb") as content:
            data = content.read(MOST_MANIFEST_BYTES + 1)
    except OSError as cause:
        raise ProvenanceError(
            "there is no manifest beside this", got=cause.strerror, expected=MANIFEST,
            advice="Nothing says where it comes from. Ask who gave it to you for the whole folder that was released.",
        ) from None  # fmt: skip
    return *read_manifest(data), data
