"""Content names: `kind:sha256…` of a canonical JSON form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["canonical_json", "content_id", "file_sha256", "sha256_hex", "short"]


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no spaces: equal values have equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_hex(data: bytes | str) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_id(kind: str, value: Mapping[str, Any]) -> str:
    """`kind:sha256` of `value`, 64 hexadecimal digits."""
    return f"{kind}:{sha256_hex(canonical_json(value))}"


def short(node_id: str) -> str:
    """`release:3f2a91c04b7d`, for people; the ledger accepts it wherever it is unambiguous."""
    kind, _, digest = node_id.partition(":")
    return f"{kind}:{digest[:12]}"
