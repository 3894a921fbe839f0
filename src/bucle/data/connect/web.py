"""A page of the web, or all of a sitemap's, brought to a mirror; asked again only whether they changed."""

from __future__ import annotations

import mimetypes
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bucle.core.ports import Report
from bucle.core.sources import WebSource
from bucle.data.connect.files import MAX_FILE_BYTES, SyncProblem
from bucle.data.connect.http import Http, NotFetched, Reply, Unreachable, site
from bucle.data.connect.mirror import Mirror
from bucle.data.connect.safe import public_url
from bucle.data.connect.sitemap import is_sitemap, pages

__all__ = ["fetch_table", "pull"]

MAX_TABLE_BYTES = 2 * 2**30
TABLE_DEADLINE_S = 1800.0
FAILURES = 5
"""Pages in a row without an answer, after which the site is not asked for more."""
_OFFICE = "application/vnd.openxmlformats-officedocument"
_SUFFIXES = {
    "text/html": (".html", ".htm"),
    "application/xhtml+xml": (".xhtml", ".html", ".htm"),
    "application/pdf": (".pdf",),
    "text/markdown": (".md", ".markdown"),
    "text/csv": (".csv",),
    "text/tab-separated-values": (".tsv",),
    "application/json": (".json", ".jsonl", ".ndjson"),
    "application/jsonl": (".jsonl",),
    "application/x-ndjson": (".jsonl", ".ndjson"),
    "application/vnd.apache.parquet": (".parquet",),
    "message/rfc822": (".eml",),
    "application/mbox": (".mbox",),
    "application/epub+zip": (".epub",),
    f"{_OFFICE}.wordprocessingml.document": (".docx",),
    f"{_OFFICE}.presentationml.presentation": (".pptx",),
    f"{_OFFICE}.spreadsheetml.sheet": (".xlsx",),
}
"""What each type's files are called, the first where a URL's own name has none of them."""
_TEXT = {".txt", ".md", ".markdown", ".rst", ".log", ".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".eml", ".mbox"}


def pull(source: WebSource, mirror: Mirror, project: Path, report: Report) -> list[SyncProblem]:
    """Bring the mirror up to the site. Returns what could not be had. Raises Unreachable where the site is away."""
    with Http(source) as http:
        if is_sitemap(source):
            wanted, home, problems = pages(http, source, mirror.part())
            homes = {home, site(source.url)}
        else:
            wanted, homes, problems = [source.url], set[str](), []
        failures = 0
        for done, url in enumerate(wanted):
            report(done, len(wanted), public_url(url)[-60:])
            if mirror.done(_key(url)):
                continue
            try:
                _page(http, mirror, url, homes)
                failures = 0
            except NotFetched as refused:
                if len(wanted) == 1 and not mirror.entries:
                    raise
                problems.append(SyncProblem(public_url(url), refused.reason, refused.message))
                if not refused.gone:
                    mirror.keep(_key(url))
            except Unreachable as error:
                failures += 1
                if failures >= min(FAILURES, len(wanted)):
                    raise
                told = f"{public_url(url)} does not answer: {error}."
                problems.append(SyncProblem(public_url(url), "unreachable", told))
                mirror.keep(_key(url))
        report(len(wanted), len(wanted))
    return problems


def _key(url: str) -> str:
    return public_url(url)


def _page(http: Http, mirror: Mirror, url: str, homes: set[str]) -> None:
    old, part = mirror.entries.get(_key(url)), mirror.part()
    etag, modified = (old.etag, old.modified) if old and old.sha256 else ("", "")
    try:
        reply = http.fetch(url, part, limit=MAX_FILE_BYTES, etag=etag, modified=modified)
    except NotFetched as refused:
        if refused.reason != "too-large":
            raise
        mirror.put(_key(url), local_path(url, ""), b"", size=MAX_FILE_BYTES + 1, origin=public_url(url))
        return
    if homes and site(reply.url) not in homes:
        raise NotFetched("elsewhere", f"{public_url(url)} leads to another site, {site(reply.url)}.")
    if reply.status == 304:
        mirror.keep(_key(url))
    elif reply.status == 200:
        _keep(mirror, url, reply, part)


def _keep(mirror: Mirror, url: str, reply: Reply, part: Path) -> None:
    mirror.put(
        _key(url),
        local_path(url, _type(reply)),
        part,
        origin=reply.url,
        etag=reply.headers.get("etag", ""),
        modified=reply.headers.get("last-modified", ""),
    )


def _type(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0].strip().lower()


def local_path(url: str, media: str) -> str:
    """Where a page lies in the mirror: its URL's path, with the suffix its content type calls for."""
    parts = urlsplit(url)
    names = [unquote(name, errors="replace") for name in parts.path.split("/")]
    kept = [re.sub(r"[\x00-\x1f\x7f\\/:]+", "-", name).lstrip(".")[:120] for name in names]
    path = "/".join(name for name in kept[:-1] if name) + "/" + (kept[-1] or "index")
    if parts.query:
        # Two queries of one page are two files; what cannot be a name is replaced.
        stem, dot, suffix = path.rpartition(".") if "." in path.rsplit("/", 1)[-1] else (path, "", "")
        query = re.sub(r"[^\w=-]+", "-", public_url("?" + parts.query)[1:])[:60]
        path = f"{stem}_{query}{dot}{suffix}"
    return path.lstrip("/") + _suffix(path, media)


def _suffix(path: str, media: str) -> str:
    """What to add to `path` so that its suffix tells its type."""
    own = Path(path).suffix.lower()
    if media in _SUFFIXES:
        return "" if own in _SUFFIXES[media] else _SUFFIXES[media][0]
    if media == "text/plain":
        return "" if own in _TEXT else ".txt"
    if own in _TEXT or any(own in names for names in _SUFFIXES.values()) or not media:
        return "" if own else ".html"
    known = mimetypes.guess_extension(media) or ""
    return "" if own == known else known


def fetch_table(source: WebSource, mirror: Mirror, project: Path, report: Report) -> list[SyncProblem]:
    """The one table at the source's URL, into the mirror."""
    with Http(source) as http:
        report(0, 1, public_url(source.url)[-60:])
        old, part = next(iter(mirror.entries.values()), None), mirror.part()
        etag, modified = (old.etag, old.modified) if old else ("", "")
        reply = http.fetch(
            source.url, part, limit=MAX_TABLE_BYTES, etag=etag, modified=modified, deadline_s=TABLE_DEADLINE_S
        )
        if reply.status == 304:
            mirror.keep(_key(source.url))
        else:
            _keep(mirror, source.url, reply, part)
        report(1, 1)
    return []
