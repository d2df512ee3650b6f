"""Names of files by what they hold, as IPFS has them: CIDv1 (github.com/multiformats/cid).

The name is of the whole file as one raw block (``ipfs block put``, ``ipfs add --raw-leaves`` of a file that is one
chunk), so it follows from SHA-256 alone. A node that cuts a file into chunks names the tree of its chunks, which is
another name for the same file.
"""

from __future__ import annotations

import base64

_RAW_SHA256 = bytes([1, 0x55, 0x12, 32])
"""Version 1; multicodec ``raw``; multihash ``sha2-256`` of 32 bytes."""


def content_id(sha256: bytes) -> str:
    """Return the CIDv1 (raw, sha2-256, base32) of a block.

    Args:
        sha256: Of the block, 32 bytes.
    """
    if len(sha256) != 32:
        raise ValueError("a SHA-256 has 32 bytes")
    return "b" + base64.b32encode(_RAW_SHA256 + sha256).decode().lower().rstrip("=")
