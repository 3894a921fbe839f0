"""Names and addresses as they may be shown and stored: without passwords, and never outside the mirror's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from bucle.core.errors import ConfigError
from bucle.core.ids import sha256_hex
from bucle.core.sources import Source

__all__ = ["environment", "file_name", "public_url", "safe_path", "scrub", "source_name"]

_SECRET = re.compile(
    r"([?&;](?:[\w.-]*(?:token|secret|password|passwd|signature|credential|apikey|api_key|access_key)[\w.-]*"
    r"|pwd|sig|key|auth)=)[^&;#]*",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f\\]")
MAX_NAME = 120
"""Characters of one file name (4 bytes each at most would still be under a file system's 255 with its suffix cut)."""


def public_url(url: str) -> str:
    """`url` without its password and with secret parameters as `***`."""
    try:
        parts = urlsplit(url)
        user, _, place = parts.netloc.rpartition("@")
        name = user.partition(":")[0]
        shown = url.replace("//" + parts.netloc, f"//{name}@{place}" if name and ":" in user else f"//{place}", 1)
    except ValueError:
        shown = re.sub(r"//[^/]*@", "//", url)
    return _SECRET.sub(r"\1***", shown)


def scrub(text: str, secrets: Iterable[str]) -> str:
    """`text` in one line of at most 300 characters, without any of `secrets`, as they are or as a URL quotes them."""
    for secret in sorted({form for s in secrets if s for form in (s, quote(s, safe=""), unquote(s))}, key=len)[::-1]:
        text = text.replace(secret, "***")
    return " ".join(re.sub(r"//[^/\s@]*:[^/\s@]*@", "//", _SECRET.sub(r"\1***", text)).split())[:300]


def environment(name: str, what: str) -> str:
    """The value of an environment variable. Raises ConfigError where it is not set."""
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(f"{what} is to be read from the environment variable {name}, which is not set.",
                          f"export {name}=…   (or put it into .env beside bucle.yaml)")  # fmt: skip
    return value


def from_environment(values: Mapping[str, Any], what: str) -> tuple[dict[str, Any], list[str]]:
    """`values` with each `env:NAME`, at any depth, read from the environment; and the secrets that were read."""
    secrets: list[str] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, str) and value.startswith("env:"):
            secrets.append(environment(value[4:], what))
            return secrets[-1]
        if isinstance(value, Mapping):
            return {key: resolve(inner) for key, inner in value.items()}
        return [resolve(inner) for inner in value] if isinstance(value, list | tuple) else value

    return {key: resolve(value) for key, value in values.items()}, secrets


def file_name(text: str) -> str:
    """`text` as one safe file name: letters, digits, `.`, `-` and `_`; a digest of `text` where that loses anything."""
    clean = re.sub(r"[^\w.-]+", "-", text).strip("-.")[:MAX_NAME] or "row"
    return clean if clean == text else f"{clean[: MAX_NAME - 9]}-{sha256_hex(text)[:8]}"


def safe_path(path: str) -> str:
    """`path` (with `/`) as one inside a folder, or "" where it would lead out of it or cannot be a file's name."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or _CONTROL.search(part) or len(part.encode()) > 240 for part in parts):
        return ""
    return "" if re.match(r"[A-Za-z]:", path) or len(path.encode()) > 3000 else path


def source_name(source: Source) -> str:
    """The name that stands before a source's paths where there are several: its own, or its kind and place."""
    if source.name:
        return source.name
    try:
        place = _place(source)
    except ValueError:
        place = "source"
    return re.sub(r"[^\w.-]+", "-", f"{source.kind}-{place}").strip("-.")[:60]


def _place(source: Source) -> str:
    if source.kind == "folder" or source.kind == "huggingface":
        return source.path
    if source.kind == "sql" and not source.url:
        return source.url_env
    parts = urlsplit(public_url(source.url))
    if source.kind == "sql":
        return parts.path.rsplit("/", 1)[-1] or parts.netloc
    return f"{parts.hostname or ''}{parts.path}"
