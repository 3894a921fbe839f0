"""`bucle data sync` as a user runs it: what changed at each source, what is wrong, and a kill in the middle."""

from __future__ import annotations

import http.server
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command import Running, answer, bucle, told
from small_project import build_tiny


def project(folder: Path, documents: object, **changes: object) -> Path:
    return build_tiny(folder / "p", data={"documents": documents}, **changes)


def test_what_changed_since_the_last_sync_is_told_for_each_source(tmp_path: Path) -> None:
    made = project(tmp_path, [{"path": "docs"}, {"kind": "sql", "url": "sqlite:///n.db", "query": "SELECT * FROM n",
                                                 "id": "id", "text": ["t"], "name": "notas"}])
    (made / "docs").mkdir()
    (made / "docs" / "ñ.md").write_bytes(b"uno\r\n")
    with sqlite3.connect(made / "n.db") as db:
        db.execute("CREATE TABLE n (id, t)")
        db.execute("INSERT INTO n VALUES (1, 'a')")
    db.close()
    first = answer("data", "sync", "-p", made)
    assert [(s["source"], s["added"]) for s in first["sources"]] == [("folder-docs", ["ñ.md"]), ("notas", ["1.md"])]
    (made / "docs" / "ñ.md").rename(made / "docs" / "o.md")
    (made / "docs" / "nuevo.md").write_text("n")
    said = told("data", "sync", "-p", made)
    assert "1 added, 0 changed, 1 renamed, 0 deleted, 0 unchanged" in said
    assert "ñ.md -> o.md" in said
    assert said.rstrip().endswith("next: bucle run")


def test_a_project_without_documents_says_so(tmp_path: Path) -> None:
    assert "names no documents" in told("data", "sync", "-p", build_tiny(tmp_path / "p"))


@pytest.mark.parametrize(("documents", "code", "said"), [
    ({"path": "nada"}, 2, "is not a folder"),
    ({"kind": "web", "url": "http://169.254.169.254/latest/meta-data/"}, 2, "not a public address"),
    ({"kind": "web", "url": "http://no.such.host.invalid/x"}, 3, "cannot be reached"),
    ({"kind": "store", "url": "memory://nada"}, 3, "cannot be reached"),
    ({"kind": "sql", "url": "postgresql://u:cl4ve@127.0.0.1:1/x", "query": "SELECT 1"}, 2, "url_env"),
    ({"kind": "huggingface", "path": "owner/name"}, 3, "HF_HUB_OFFLINE"),
    ({"kind": "ftp", "path": "x"}, 2, "cannot be `ftp`"),
])
def test_what_cannot_be_read_is_two_lines_and_an_exit_code(
    tmp_path: Path, documents: object, code: int, said: str
) -> None:
    done = bucle("data", "sync", "-p", project(tmp_path, documents))
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "\n  -> " in done.stderr
    assert "Traceback" not in done.stderr
    assert "cl4ve" not in done.stderr + done.stdout


@pytest.fixture
def slow_site() -> Iterator[tuple[str, list[str]]]:
    """Thirty pages, a moment each; says which were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            url = f"http://127.0.0.1:{server.server_address[1]}"
            if self.path == "/robots.txt":
                self.send_error(404)
                return
            pages = "".join(f"<url><loc>{url}/p{n}</loc></url>" for n in range(30))
            body = f"<urlset>{pages}</urlset>" if self.path == "/sitemap.xml" else f"<p>página {self.path}</p>"
            time.sleep(0.05)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    server.server_close()


def test_a_killed_sync_goes_on_where_it_stopped(tmp_path: Path, slow_site: tuple[str, list[str]]) -> None:
    url, asked = slow_site
    made = project(tmp_path, {"kind": "web", "url": f"{url}/sitemap.xml", "delay_s": 0, "allow_private": True})
    no_proxy = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with Running("data", "sync", "-p", made, log=tmp_path / "log", env=no_proxy) as run:
        end = time.monotonic() + 60
        while "/p7" not in asked:
            assert run.process.poll() is None, run.text
            assert time.monotonic() < end
            time.sleep(0.005)
        run.kill()
    before = set(asked[:-2])
    asked.clear()
    found = answer("data", "sync", "-p", made, env=no_proxy)
    assert found["sources"][0]["files"] == 30
    assert not {page for page in before if page.startswith("/p")} & set(asked), "nothing is fetched twice"
    manifest = json.loads(next(made.rglob("manifest.json")).read_bytes())
    assert len(manifest["entries"]) == 30


def test_a_second_sync_at_once_is_refused(tmp_path: Path, slow_site: tuple[str, list[str]]) -> None:
    url, asked = slow_site
    made = project(tmp_path, {"kind": "web", "url": f"{url}/sitemap.xml", "delay_s": 0, "allow_private": True})
    with Running("data", "sync", "-p", made, log=tmp_path / "log", env={"NO_PROXY": "127.0.0.1"}):
        while "/p1" not in asked:
            time.sleep(0.005)
        assert bucle("data", "sync", "-p", made).returncode == 3


def test_rows_of_a_task_come_from_a_query(tmp_path: Path) -> None:
    made = build_tiny(tmp_path / "p")
    body = yaml.safe_load((made / "bucle.yaml").read_text())
    rows = [line.split("\t")[:2] for line in (made / "data" / "mensajes.tsv").read_text().splitlines()]
    with sqlite3.connect(made / "m.db") as db:
        db.execute("CREATE TABLE m (uno, dos)")
        db.executemany("INSERT INTO m VALUES (?, ?)", rows)
    db.close()
    body["tasks"]["intenciones"] |= {"text": "uno", "label": "dos",
                                     "data": {"kind": "sql", "url": "sqlite:///m.db", "query": "SELECT * FROM m"}}
    (made / "bucle.yaml").write_text(yaml.safe_dump(body))
    found = answer("data", "sync", "-p", made)
    assert len(Path(found["rows"]["intenciones"]).read_text().splitlines()) == len(rows)
