"""Files in object storage, or under any other fsspec URL, brought to a mirror; only what changed is fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, ConfigError
from bucle.core.ports import Report
from bucle.core.sources import StoreSource
from bucle.data.connect.access import is_sidecar
from bucle.data.connect.files import MAX_FILE_BYTES, SyncProblem
from bucle.data.connect.globs import cut, is_glob, matches
from bucle.data.connect.http import Unreachable
from bucle.data.connect.mirror import Mirror
from bucle.data.connect.safe import from_environment, public_url, safe_path, scrub

__all__ = ["fetch_table", "pull"]

MAX_TABLE_BYTES = 2 * 2**30
PIECE = 2**20
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure",
           "adl": "azure"}  # fmt: skip
_VERSION = ("ETag", "etag", "version_id", "VersionId", "md5", "md5Hash", "content_md5", "crc32c", "checksum", "mtime",
            "LastModified", "last_modified", "updated", "modified", "modification_time", "created")  # fmt: skip
"""What file systems of fsspec call whatever tells one version of a file from the next."""


def pull(source: StoreSource, mirror: Mirror, project: Path, report: Report) -> list[SyncProblem]:
    """Bring the mirror up to the store. Returns what could not be had. Raises Unreachable where it is away."""
    first, chained, rest = source.url.partition("::")
    base, narrow = _cut(first) if is_glob(first.partition("://")[2]) else (first, "")
    base += chained + rest
    fs, root, secrets = _open(source, base)
    found = _asked(lambda: _list(fs, root), secrets)
    single = list(found) == [""]
    problems: list[SyncProblem] = []
    wanted: dict[str, Mapping[str, Any]] = {}
    for name, info in found.items():
        rel = root.rstrip("/").rpartition("/")[2] if single else name
        parts = rel.split("/")
        if any(part.startswith((".", "~$")) and part not in (".access", "..") for part in parts):
            continue
        if ".." in parts or rel.startswith("/") or "\\" in rel or "\0" in rel:
            problems.append(SyncProblem(rel, "unsafe-name", "The name leads out of the source; it is not fetched."))
        elif is_sidecar(rel) or single or (
            any(matches(rel, p) for p in source.patterns) and (not narrow or matches(rel, narrow))
        ):
            wanted[rel] = info
    for done, (rel, info) in enumerate(sorted(wanted.items())):
        report(done, len(wanted), rel[-60:])
        problems += _one(fs, mirror, rel, info, secrets, MAX_FILE_BYTES)
    report(len(wanted), len(wanted))
    return problems


def _cut(url: str) -> tuple[str, str]:
    """`url` up to its first folder with a glob, and the glob."""
    protocol, _, path = url.partition("://")
    if is_glob(path.partition("/")[0]):
        return f"{protocol}://", path
    return cut(url)


def fetch_table(source: StoreSource, mirror: Mirror, project: Path, report: Report) -> list[SyncProblem]:
    """The one table at the source's URL, into the mirror. Raises BadInput where the URL is of none or several."""
    fs, root, secrets = _open(source, source.url)
    found = _asked(lambda: _list(fs, root), secrets)
    if list(found) != [""]:
        raise BadInput(f"{public_url(source.url)} is not one file.", "Name the file with the rows, not its folder.")
    name = root.rstrip("/").rpartition("/")[2]
    report(0, 1, name)
    if problems := _one(fs, mirror, name, found[""], secrets, MAX_TABLE_BYTES):
        raise Unreachable(problems[0].message)
    report(1, 1)
    return []


def _open(source: StoreSource, url: str) -> tuple[Any, str, list[str]]:
    """The file system, the path in it, and the secrets that no message may hold."""
    protocols = [part.partition("://")[0] for part in url.split("::")]
    if any(protocol.startswith("http") for protocol in protocols):
        raise ConfigError(f"{public_url(url)} is a page of the web.", "Give it as `kind: web`, `url: …`.")
    if "://" not in url:
        raise ConfigError(f"{public_url(url)} is no URL of a store.", "A folder is named as `kind: folder`, `path: …`.")
    options, secrets = from_environment(source.options, "An option of a store")
    secrets += [str(value) for key, value in options.items() if key.lower() in ("secret", "password", "token")]
    import fsspec  # type: ignore[import-untyped]

    try:
        fs, root = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = _EXTRAS.get(protocols[-1])
        raise ConfigError(
            f"Reading {protocols[-1]}:// needs a package that is not installed ({scrub(str(error), secrets)}).",
            f"pip install 'bucle[{package}]'" if package else "Install the package that the message names.",
        ) from None
    except ValueError as error:
        raise ConfigError(
            f"{public_url(url)} cannot be opened: {scrub(str(error), secrets)}.", "Correct the URL or its `options`."
        ) from None
    except TypeError as error:
        raise ConfigError(f"`options` of {public_url(url)}: {scrub(str(error), secrets)}.", "Correct them.") from None
    except Exception as error:
        raise Unreachable(_told(error, secrets)) from None
    return fs, str(root), secrets


def _list(fs: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """Files below `root` by their path relative to it; `root` itself, where it is a file, as the only one, "". """
    fs.invalidate_cache()
    told = fs.find(root, detail=True, withdirs=False)
    home = root.rstrip("/")
    if not told and not fs.exists(root):
        # An object store has no empty folders: a prefix with nothing under it is as good as gone.
        raise FileNotFoundError(f"nothing is there under {root}")
    found = {}
    for name, info in told.items():
        if name.rstrip("/") == home or (not home and not name):
            return {"": info}
        rel = name[len(home) + 1 :] if home and name.startswith(home + "/") else name.lstrip("/") if not home else name
        if info.get("type", "file") == "file" and rel and not rel.endswith("/"):
            found[rel] = info
    return found


def _one(
    fs: Any, mirror: Mirror, rel: str, info: Mapping[str, Any], secrets: list[str], limit: int
) -> list[SyncProblem]:
    """Fetch one file unless it is as it was."""
    token, size, origin = _token(info), int(info.get("size") or 0), public_url(str(fs.unstrip_protocol(info["name"])))
    old = mirror.entries.get(rel)
    if old and token and old.token == token and old.size == size:
        mirror.keep(rel)
        return []
    wanted = safe_path(rel) or rel
    if size > limit:
        mirror.put(rel, wanted, b"", size=size, origin=origin, token=token)
        return []
    part, got = mirror.part(), 0
    try:
        with fs.open(info["name"], "rb") as remote, part.open("wb") as file:
            while piece := remote.read(PIECE):
                got += len(piece)
                if got > limit:
                    mirror.put(rel, wanted, b"", size=got, origin=origin)
                    return []
                file.write(piece)
        if got < size:
            raise OSError(f"{got} of {size} bytes came")
    except FileNotFoundError:
        return [SyncProblem(rel, "gone", "The file went away while the store was being read.")]
    except Exception as error:
        if old and not isinstance(error, PermissionError):
            mirror.keep(rel)
        reason = "forbidden" if isinstance(error, PermissionError) else "unreachable"
        return [SyncProblem(rel, reason, f"The file cannot be fetched: {_told(error, secrets)}.")]
    mirror.put(rel, wanted, part, origin=origin, token=token)
    return []


def _token(info: Mapping[str, Any]) -> str:
    told = {key: str(info[key]) for key in _VERSION if info.get(key)}
    return json.dumps(told, sort_keys=True) if told else ""


def _asked(ask: Callable[[], dict[str, Mapping[str, Any]]], secrets: list[str]) -> dict[str, Mapping[str, Any]]:
    try:
        return ask()
    except Exception as error:  # every driver has errors of its own
        raise Unreachable(_told(error, secrets)) from None


def _told(error: Exception, secrets: list[str]) -> str:
    return scrub(str(error) or type(error).__name__, secrets).rstrip(".") or type(error).__name__
