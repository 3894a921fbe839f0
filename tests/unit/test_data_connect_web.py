"""Pages and sitemaps from a real server on this machine, one that may lie, stall, bomb and hang up."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, ConfigError, Infrastructure
from bucle.core.sources import WebSource
from bucle.data.connect import Synced, fetch_rows, guard, http, sync
from bucle.data.connect.safe import public_url, scrub
from bucle.data.connect.web import local_path

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """Pages by path: bytes, or a function that answers. Says what was asked of it."""

    def __init__(self, tls: Any = None) -> None:
        self.pages: dict[str, bytes | Answer] = {}
        self.types: dict[str, str] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.headers.append(dict(self.headers.items()))
                page = site.pages.get(self.path)
                if page is None:
                    reply(self, b"", 404)
                elif callable(page):
                    page(self)
                else:
                    etag = '"' + hashlib.sha256(page).hexdigest()[:16] + '"'
                    if self.headers.get("If-None-Match") == etag:
                        reply(self, b"", 304)
                    else:
                        reply(self, page, 200, {"ETag": etag, "Content-Type": site.types.get(self.path, "text/html")})

            def log_message(self, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if tls:
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def sitemap(self, *paths: str, at: str = "/sitemap.xml") -> None:
        entries = "".join(f"<url><loc>{p if '://' in p else self.url + p}</loc></url>" for p in paths)
        self.pages[at] = f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{entries}</urlset>'.encode()


def reply(h: BaseHTTPRequestHandler, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
    h.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        h.send_header(name, value)
    h.end_headers()
    h.wfile.write(body)


def to(url: str) -> Answer:
    return lambda h: reply(h, b"", 302, {"Location": url})


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    made = Site()
    yield made
    made.server.shutdown()
    made.server.server_close()


def pull(site: Site, tmp_path: Path, path: str = "/sitemap.xml", *, force: bool = True, **source: object) -> Synced:
    made = {"kind": "web", "url": site.url + path, "delay_s": 0, "allow_private": True, **source}
    return sync(WebSource.model_validate(made), tmp_path, tmp_path / "mirrors", force=force)


def texts(found: Synced) -> dict[str, bytes]:
    return {file.path: (found.root / file.path).read_bytes() for file in found.files}


def reasons(found: Synced) -> dict[str, str]:
    return {problem.path.rpartition("/")[2]: problem.reason for problem in found.problems}


def test_a_page_is_fetched_once_and_asked_again_only_whether_it_changed(site: Site, tmp_path: Path) -> None:
    site.pages["/guia"] = b"<p>hola</p>"
    found = pull(site, tmp_path, "/guia")
    assert texts(found) == {"guia.html": b"<p>hola</p>"}
    assert found.files[0].origin == site.url + "/guia"
    assert site.headers[-1]["User-Agent"].startswith("bucle/")
    site.asked.clear()
    assert not pull(site, tmp_path, "/guia", force=False).changes
    assert site.asked == [], "within refresh_hours nothing is asked"
    assert pull(site, tmp_path, "/guia").changes.unchanged == 1
    assert "If-None-Match" in site.headers[-1]
    site.pages["/guia"] = b"<p>otra</p>"
    assert pull(site, tmp_path, "/guia").changes.changed == ["guia.html"]


def test_a_sitemap_of_sitemaps_and_pages_that_leave_it_leave_the_mirror(site: Site, tmp_path: Path) -> None:
    inner = f"<sitemap><loc>{site.url}/a.xml.gz</loc></sitemap><sitemap><loc>{site.url}/b.xml</loc></sitemap>"
    site.pages["/sitemap.xml"] = f"<sitemapindex>{inner}</sitemapindex>".encode()
    site.sitemap("/uno", "/dos?x=1&token=abc", at="/a.xml")
    site.pages["/a.xml.gz"] = gzip.compress(site.pages.pop("/a.xml"))  # type: ignore[arg-type]
    site.sitemap("/tres/", "/uno", at="/b.xml")
    site.pages |= {"/uno": b"1", "/dos?x=1&amp;token=abc": b"", "/dos?x=1&token=abc": b"2", "/tres/": b"3"}
    site.pages["/a.xml.gz"] = gzip.compress(
        gzip.decompress(site.pages["/a.xml.gz"]).replace(b"&", b"&amp;")  # type: ignore[arg-type]
    )
    found = pull(site, tmp_path)
    assert sorted(texts(found).values()) == [b"1", b"2", b"3"]
    assert not any("abc" in f.origin + f.path for f in found.files), "secrets of a URL are not written down"
    site.sitemap("/tres/", at="/b.xml")
    site.pages["/a.xml.gz"] = b"\x1f\x8bdamaged"
    later = pull(site, tmp_path)
    assert list(texts(later)) == ["tres/index.html"]
    assert reasons(later)["a.xml.gz"] == "corrupt"
    assert len(list(later.root.rglob("*.html"))) == 1


def test_patterns_limits_and_other_hosts(site: Site, tmp_path: Path) -> None:
    site.sitemap("/ayuda/a", "/ayuda/b", "/ayuda/c", "/blog/x", "http://169.254.169.254/latest/meta-data")
    site.pages |= {f"/ayuda/{n}": n.encode() for n in "abc"}
    found = pull(site, tmp_path, patterns=["/ayuda/**"], max_pages=2, access={"ayuda/a": ["clientes"]})
    assert [(f.path, f.access) for f in found.files] == [("ayuda/a.html", ("clientes",)), ("ayuda/b.html", ())]
    assert sorted(p.reason for p in found.problems) == ["elsewhere", "too-many"]


def test_sitemap_true_finds_it_through_robots(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/": b"<html>inicio</html>", "/robots.txt": f"Sitemap: {site.url}/mapa".encode(), "/p": b"p"}
    site.sitemap("/p", at="/mapa")
    assert list(texts(pull(site, tmp_path, "/", sitemap=True))) == ["p.html"]


def test_robots_are_kept(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/robots.txt": b"User-agent: *\nDisallow: /privado\nCrawl-delay: 0.15", "/a": b"a", "/privado": b"x"}
    site.sitemap("/a", "/privado")
    began = time.monotonic()
    found = pull(site, tmp_path)
    assert list(texts(found)) == ["a.html"]
    assert reasons(found) == {"privado": "robots"}
    assert "/privado" not in site.asked
    assert time.monotonic() - began >= 0.15, "Crawl-delay is kept"
    with pytest.raises(BadInput, match="keeps"):
        pull(site, tmp_path, "/privado")


def test_a_site_whose_robots_fail_is_not_read_now(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/robots.txt": lambda h: reply(h, b"", 500), "/a": b"a"}
    with pytest.raises(Infrastructure, match="500"):
        pull(site, tmp_path, "/a")
    assert "/a" not in site.asked


def test_redirects_are_followed_and_end(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/viejo": to("/nuevo"), "/nuevo": b"n", "/sinfin": to("/sinfin"), "/js": to("file:///etc/passwd")}
    assert texts(pull(site, tmp_path, "/viejo")) == {"viejo.html": b"n"}
    with pytest.raises(BadInput, match="redirects more than"):
        pull(site, tmp_path, "/sinfin")
    with pytest.raises(BadInput, match="no http"):
        pull(site, tmp_path, "/js")


@pytest.mark.parametrize("host", [
    "127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "10.1.2.3",
    "192.168.0.1", "172.16.9.9", "100.64.0.1", "0.0.0.0", "224.0.0.1", "240.0.0.1", "169.254.169.254",  # noqa: S104
    "[fd00:ec2::254]", "[fe80::1]", "[64:ff9b::a9fe:a9fe]", "[2002:7f00:1::]", "168.63.129.16", "localhost",
])
def test_private_addresses_are_refused_however_written(host: str, tmp_path: Path) -> None:
    source = WebSource(kind="web", url=f"http://{host}:9/x", delay_s=0)
    with pytest.raises(BadInput, match="not a public address"):
        sync(source, tmp_path, tmp_path / "mirrors")


def test_what_is_no_url_is_refused(site: Site, tmp_path: Path) -> None:
    for url in ("http://0177.0.0.1/", "http://[::1/", "http://h:99999/", "ftp://h/", "http:///x", "file:///etc/passwd"):
        with pytest.raises(BadInput):
            sync(WebSource(kind="web", url=url), tmp_path, tmp_path / "m")
        site.pages["/a"] = to(url)
        with pytest.raises((BadInput, Infrastructure)):
            pull(site, tmp_path, "/a")


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "[fd00:ec2::254]", "0xa9fea9fe"])
def test_metadata_addresses_are_refused_even_where_private_ones_are_allowed(
    host: str, site: Site, tmp_path: Path
) -> None:
    site.pages["/a"] = to(f"http://{host}/latest/meta-data/iam")
    with pytest.raises(BadInput, match="not a public address"):
        pull(site, tmp_path, "/a")
    assert site.asked == ["/robots.txt", "/a"]


def test_a_redirect_from_a_permitted_host_to_a_private_one_is_refused(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = guard.forbidden
    monkeypatch.setattr(guard, "forbidden", lambda ip, private: ip != "127.0.0.1" and real(ip, private))
    for target in ("http://127.0.0.2:1/", "http://10.0.0.1/", "http://[::1]:1/", "http://0x7f000002:1/"):
        site.pages["/a"] = to(target)
        with pytest.raises(BadInput, match="not a public address"):
            pull(site, tmp_path, "/a", allow_private=False)


def test_a_name_is_resolved_once_and_that_address_is_the_one_connected_to(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that names a public address when asked first and this machine ever after gets nowhere."""
    port = int(site.url.rpartition(":")[2])
    told = iter(["93.184.216.34"])
    connected: list[str] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, p, **_: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(told, "127.0.0.1"), p))
    ])

    def connect(address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        connected.append(address[0])
        raise OSError("no network here")

    monkeypatch.setattr(socket, "create_connection", connect)
    source = WebSource(kind="web", url=f"http://rebind.example:{port}/", delay_s=0)
    with pytest.raises(BadInput, match=r"127\.0\.0\.1, which is not a public"):
        sync(source, tmp_path, tmp_path / "mirrors")
    assert connected == ["93.184.216.34"]
    assert site.asked == []


def test_tls_and_host_use_the_name_though_the_address_was_chosen_here(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    certificate, names = self_signed(tmp_path, "docs.example"), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)
    tls = Site(context)
    tls.pages["/a"] = b"a"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: real("127.0.0.1", *a, **k))
    port = tls.server.server_address[1]
    try:
        for name, works in (("docs.example", True), ("otro.example", False)):
            source = WebSource(kind="web", url=f"https://{name}:{port}/a", delay_s=0, allow_private=True)
            if works:
                assert len(sync(source, tmp_path, tmp_path / "m").files) == 1
                assert tls.headers[-1]["Host"] == f"docs.example:{port}"
                assert set(names) == {"docs.example"}
            else:
                with pytest.raises(Infrastructure, match="CERTIFICATE_VERIFY_FAILED"):
                    sync(source, tmp_path, tmp_path / "m")
    finally:
        tls.server.shutdown()
        tls.server.server_close()


def self_signed(folder: Path, name: str) -> Path:
    """A certificate for `name` with its key, in one file."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key, who = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    day = timedelta(days=1)
    made = (
        x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key()).serial_number(7)
        .not_valid_before(datetime.now(UTC) - day).not_valid_after(datetime.now(UTC) + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "tls.pem").write_bytes(pem + made.public_bytes(serialization.Encoding.PEM))
    return folder / "tls.pem"


def test_a_host_with_one_private_address_among_public_ones_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, p, **_: [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, p)) for ip in ("93.184.216.34", "10.0.0.7")
    ])
    with pytest.raises(BadInput, match=r"10\.0\.0\.7"):
        sync(WebSource(kind="web", url="http://mixed.example/"), tmp_path, tmp_path / "mirrors")


def test_a_page_that_points_at_metadata_addresses_makes_nothing_be_fetched(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = (
        b'<meta http-equiv=refresh content="0;url=http://169.254.169.254/"><img src=/img>'
        b'<link href=/css rel=stylesheet><iframe src="http://127.0.0.1/"></iframe>'
    )
    pull(site, tmp_path, "/a")
    assert site.asked == ["/robots.txt", "/a"]


@pytest.mark.parametrize("doctype", [
    '<!DOCTYPE u [<!ENTITY a "x"><!ENTITY b "&a;&a;&a;">]>', '<!DOCTYPE u [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
])
def test_a_sitemap_with_entities_is_not_read(site: Site, tmp_path: Path, doctype: str) -> None:
    site.pages["/sitemap.xml"] = f"{doctype}<urlset><url><loc>{site.url}/&a;</loc></url></urlset>".encode()
    with pytest.raises(Infrastructure, match=r"entities|not safe"):
        pull(site, tmp_path)


def test_bombs_are_stopped_at_the_limit(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(200 * 2**20), 9)
    site.pages |= {
        "/bomba": lambda h: reply(h, bomb, 200, {"Content-Encoding": "gzip"}),
        "/sitemap.xml.gz": bomb, "/a": b"a",
    }
    site.sitemap("/bomba", "/a")
    found = pull(site, tmp_path)
    assert {f.path: (f.size > 2**26, f.sha256) for f in found.files if f.path != "a.html"} == {"bomba.html": (True, "")}
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 100 * 2**20
    with pytest.raises(Infrastructure, match="bytes"):
        pull(site, tmp_path, "/sitemap.xml.gz")


def test_an_encoding_that_was_not_asked_for_and_a_damaged_one(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/br": lambda h: reply(h, b"x", 200, {"Content-Encoding": "br"}),
                   "/mal": lambda h: reply(h, b"no gzip", 200, {"Content-Encoding": "gzip"})}
    for path in ("/br", "/mal"):
        with pytest.raises(BadInput):
            pull(site, tmp_path, path)


def test_a_server_that_drips_is_left_at_the_deadline(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()

    def drip(h: BaseHTTPRequestHandler) -> None:
        h.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not stop.wait(0.05):
            try:
                h.wfile.write(b"x")
            except OSError:
                return

    monkeypatch.setattr(http, "DEADLINE_S", 0.5)
    site.pages["/lento"] = drip
    began = time.monotonic()
    try:
        with pytest.raises(Infrastructure, match="too long"):
            pull(site, tmp_path, "/lento")
    finally:
        stop.set()
    assert time.monotonic() - began < 5


def test_a_download_that_breaks_off_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    body = bytes(range(256)) * 2000

    def table(h: BaseHTTPRequestHandler) -> None:
        wanted = h.headers.get("Range", "")
        headers = {"ETag": '"v1"', "Content-Type": "text/csv"}
        if wanted and h.headers["If-Range"] == '"v1"':
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            reply(h, body[start:], 206, {**headers, "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"})
        else:
            h.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                h.send_header(name, value)
            h.end_headers()
            h.wfile.write(body[:200_000])
            h.close_connection = True

    site.pages["/t.csv"] = table
    source = WebSource(kind="web", url=site.url + "/t.csv", delay_s=0, allow_private=True)
    assert fetch_rows(source, tmp_path, tmp_path / "m").read_bytes() == body
    assert site.headers[-1]["Range"].startswith("bytes=")


def test_a_site_that_is_away_leaves_the_mirror_and_says_how_old_it_is(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = b"a"
    first = pull(site, tmp_path, "/a")
    site.pages["/a"] = lambda h: reply(h, b"", 503)
    later = pull(site, tmp_path, "/a")
    assert texts(later) == texts(first)
    assert "cannot be reached" in later.note
    assert "0 minutes old" in later.note
    manifest = json.loads(next(tmp_path.rglob("manifest.json")).read_bytes())
    assert manifest["entries"][site.url + "/a"]["etag"]


def test_a_page_that_fails_keeps_its_copy_and_one_that_is_gone_leaves(site: Site, tmp_path: Path) -> None:
    site.sitemap("/a", "/b", "/c")
    site.pages |= {"/a": b"a", "/b": b"b", "/c": b"c"}
    pull(site, tmp_path)
    site.pages["/a"] = lambda h: reply(h, b"", 503)
    del site.pages["/b"]
    found = pull(site, tmp_path)
    assert list(texts(found)) == ["a.html", "c.html"]
    assert reasons(found) == {"a": "unreachable", "b": "http-404"}
    assert found.changes.deleted == ["b.html"]


def test_an_interrupted_sync_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.sitemap("/a", "/b", "/c")
    site.pages |= {"/a": b"a", "/b": b"b", "/c": b"c"}

    def die(done: int, total: int, note: str = "") -> None:
        if done == 2:
            raise KeyboardInterrupt

    source = WebSource(kind="web", url=site.url + "/sitemap.xml", delay_s=0, allow_private=True)
    with pytest.raises(KeyboardInterrupt):
        sync(source, tmp_path, tmp_path / "m", report=die)
    journal = next(tmp_path.rglob("journal.jsonl"))
    journal.write_bytes(journal.read_bytes() + b'{"key": "torn')
    site.asked.clear()
    assert len(sync(source, tmp_path, tmp_path / "m").files) == 3
    assert site.asked == ["/robots.txt", "/sitemap.xml", "/c"]


def test_a_mirror_that_was_changed_by_hand_is_made_whole(site: Site, tmp_path: Path) -> None:
    site.pages["/a"] = b"a"
    found = pull(site, tmp_path, "/a")
    (found.root / "a.html").write_bytes(b"something else")
    assert texts(pull(site, tmp_path, "/a", force=False)) == {"a.html": b"a"}
    manifest = next(tmp_path.rglob("manifest.json"))
    manifest.write_text(manifest.read_text().replace('"path": "a.html"', '"path": "../../../a.html"'))
    assert texts(pull(site, tmp_path, "/a")) == {"a.html": b"a"}
    manifest.write_bytes(b"\0not json")
    assert texts(pull(site, tmp_path, "/a")) == {"a.html": b"a"}


def test_passwords_and_tokens_go_to_their_own_site_only_and_are_shown_nowhere(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("WIKI", "Bearer s3cr3t")
    other = Site()
    try:
        other.pages["/b"] = b"b"
        site.pages["/a"] = to(other.url + "/b")
        url = site.url.replace("//", "//ana:cl4ve@") + "/a"
        source = WebSource(kind="web", url=url, delay_s=0, allow_private=True, headers={"X-Token": "env:WIKI"})
        found = sync(source, tmp_path, tmp_path / "m")
        assert site.headers[-1]["X-Token"] == "Bearer s3cr3t"
        assert site.headers[-1]["Authorization"].startswith("Basic")
        assert not {"X-Token", "Authorization"} & set(other.headers[-1])
        assert found.files[0].origin == other.url + "/b"
        del site.pages["/a"]
        with pytest.raises(BadInput) as caught:
            sync(source, tmp_path, tmp_path / "m2")
    finally:
        other.server.shutdown()
        other.server.server_close()
    kept = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    for text in (str(caught.value), caplog.text, kept.decode()):
        assert "cl4ve" not in text
        assert "s3cr3t" not in text
    monkeypatch.delenv("WIKI")
    with pytest.raises(ConfigError, match="WIKI"):
        sync(source, tmp_path, tmp_path / "m3")


@pytest.mark.parametrize(("url", "media", "path"), [
    ("http://h/", "text/html", "index.html"), ("http://h/a/b.pdf", "application/pdf", "a/b.pdf"),
    ("http://h/d?id=3", "application/pdf", "d_id=3.pdf"), ("http://h/n.md", "text/plain", "n.md"),
    ("http://h/%2e%2e/%2e%2e/etc/passwd", "text/plain", "etc/passwd.txt"),
    ("http://h/x.php", "text/html", "x.php.html"),
    ("http://h/a%00%5cb", "text/html", "a-b.html"), ("http://h/.env", "text/plain", "env.txt"),
    ("http://h/informe.docx", "application/octet-stream", "informe.docx"), ("http://h/año", "", "año.html"),
])
def test_where_a_page_lies(url: str, media: str, path: str) -> None:
    assert local_path(url, media) == path


def test_pages_whose_names_meet_are_both_kept(site: Site, tmp_path: Path) -> None:
    site.sitemap("/a.html", "/a", "/a.html/b", "/A.html")
    site.pages |= {"/a.html": b"1", "/a": b"2", "/a.html/b": b"3", "/A.html": b"4"}
    assert sorted(texts(pull(site, tmp_path)).values()) == [b"1", b"2", b"3", b"4"]


def test_a_table_is_downloaded_and_what_is_no_table_refused(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/t": b"texto,label\nhola,a\n", "/p": b"<html>"}
    site.types["/t"] = "text/csv; charset=utf-8"
    ask = {"kind": "web", "delay_s": 0, "allow_private": True}
    table = WebSource.model_validate(ask | {"url": site.url + "/t"})
    assert fetch_rows(table, tmp_path, tmp_path / "m").name == "t.csv"
    asked = len(site.asked)
    fetch_rows(table, tmp_path, tmp_path / "m")
    assert len(site.asked) == asked
    with pytest.raises(BadInput, match="no table"):
        fetch_rows(WebSource.model_validate(ask | {"url": site.url + "/p"}), tmp_path, tmp_path / "m")


def test_urls_as_shown() -> None:
    assert public_url("https://u:p@h/x?a=1&X-Amz-Signature=ff&sig=3") == "https://u@h/x?a=1&X-Amz-Signature=***&sig=***"
    assert public_url("https://tok@h/") == "https://h/"
    assert "p@ss" not in scrub("no: postgresql://u:p%40ss@h password p@ss", ["p@ss"])
