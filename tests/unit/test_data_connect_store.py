"""Object stores through fsspec: memory and files of this machine, and S3 for real against a server of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from bucle.core.errors import BadInput, ConfigError, Infrastructure
from bucle.core.sources import StoreSource
from bucle.data.connect import Synced, fetch_rows, store, sync


def pull(tmp_path: Path, url: str, **source: object) -> Synced:
    made = StoreSource.model_validate({"kind": "store", "url": url, **source})
    return sync(made, tmp_path, tmp_path / "mirrors", force=True)


def texts(found: Synced) -> dict[str, str]:
    return {file.path: (found.root / file.path).read_text() for file in found.files}


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def put(fs: Any, **files: str) -> None:
    for name, text in files.items():
        fs.pipe_file(name, text.encode())


def test_only_what_changed_is_fetched_and_what_is_gone_leaves(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, **{"/b/docs/a.md": "uno", "/b/docs/x/b.md": "dos", "/b/docs/.git/c": "no", "/b/otro.md": "no"})
    found = pull(tmp_path, "memory://b/docs")
    assert texts(found) == {"a.md": "uno", "x/b.md": "dos"}
    assert found.files[0].origin == "memory:///b/docs/a.md"
    opened: list[str] = []
    real = type(memory).open
    monkeypatch.setattr(type(memory), "open", lambda s, p, *a, **k: opened.append(p) or real(s, p, *a, **k))
    memory.rm("/b/docs/a.md")
    put(memory, **{"/b/docs/c.md": "tres"})
    opened.clear()
    later = pull(tmp_path, "memory://b/docs")
    assert opened == ["/b/docs/c.md"]
    assert (later.changes.added, later.changes.deleted, later.changes.unchanged) == (["c.md"], ["a.md"], 1)
    assert sorted(p.name for p in later.root.rglob("*.md")) == ["b.md", "c.md"]


def test_globs_patterns_and_one_file(memory: Any, tmp_path: Path) -> None:
    put(memory, **{"/b/a.md": "1", "/b/x/b.pdf": "2", "/b/x/y/c.pdf": "3"})
    assert list(texts(pull(tmp_path, "memory://b/**/*.pdf"))) == ["x/b.pdf", "x/y/c.pdf"]
    assert list(texts(pull(tmp_path, "memory://b", patterns=["x/*.pdf"]))) == ["x/b.pdf"]
    assert texts(pull(tmp_path, "memory://b/x/b.pdf")) == {"b.pdf": "2"}


def test_sidecars_of_the_store_travel_and_fail_closed(memory: Any, tmp_path: Path) -> None:
    put(memory, **{"/b/rrhh/.access": "rrhh", "/b/rrhh/n.pdf": "1", "/b/a.pdf": "2", "/b/a.pdf.access": "<",
                   "/b/c.pdf": "3"})
    found = pull(tmp_path, "memory://b", patterns=["**/*.pdf"], access={"c.*": ["x"]})
    assert {f.path: f.access for f in found.files} == {"rrhh/n.pdf": ("rrhh",), "c.pdf": ("x",)}
    assert [(p.path, p.reason) for p in found.problems] == [("a.pdf", "access")]


def test_a_sidecar_that_cannot_be_fetched_closes_what_it_protects(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, **{"/b/rrhh/.access": "rrhh", "/b/rrhh/n.pdf": "1", "/b/c.pdf": "3"})
    real = type(memory).open

    def refuse(fs: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith(".access"):
            raise PermissionError("denied")
        return real(fs, path, *args, **kwargs)

    monkeypatch.setattr(type(memory), "open", refuse)
    found = pull(tmp_path, "memory://b")
    assert [f.path for f in found.files] == ["c.pdf"]
    assert {p.path for p in found.problems} == {"rrhh/.access", "rrhh/n.pdf"}


def test_names_that_lead_out_of_the_mirror_are_refused(memory: Any, tmp_path: Path) -> None:
    for name in ("/b/../../../tmp/x.md", "/b/a/../../x.md", "/b/c\\..\\x.md", "/b/ok.md"):
        memory.store[name] = type(memory.open("/b/tmp", "wb"))(memory, name, b"x")
    memory.store.pop("/b/tmp", None)
    before = {p for p in tmp_path.parent.rglob("*") if not p.is_relative_to(tmp_path / "mirrors")}
    found = pull(tmp_path, "memory://b")
    assert list(texts(found)) == ["ok.md"]
    assert {p.reason for p in found.problems} == {"unsafe-name"}
    assert {p for p in tmp_path.parent.rglob("*") if not p.is_relative_to(tmp_path / "mirrors")} == before


def test_a_file_over_the_limit_is_known_but_not_fetched(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_FILE_BYTES", 10)
    put(memory, **{"/b/a.md": "x" * 11, "/b/b.md": "x"})
    found = pull(tmp_path, "memory://b")
    assert [(f.path, f.size, bool(f.sha256)) for f in found.files] == [("a.md", 11, False), ("b.md", 1, True)]
    assert not (found.root / "a.md").exists()


def test_files_of_this_machine_and_a_store_that_went(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "año nuevo.md").write_text("ñ")
    found = pull(tmp_path, f"file://{tmp_path}/d")
    assert texts(found) == {"año nuevo.md": "ñ"}
    (tmp_path / "d").rename(tmp_path / "e")
    later = pull(tmp_path, f"file://{tmp_path}/d")
    assert texts(later) == texts(found)
    assert "cannot be reached" in later.note
    with pytest.raises(Infrastructure, match="cannot be reached"):
        pull(tmp_path, "memory://nada")


@pytest.mark.parametrize(("url", "said"), [
    ("https://example.com/x", "kind: web"), ("simplecache::https://example.com/x", "kind: web"),
    ("nada://x/y", "cannot be opened"), ("docs", "no URL"), ("gs://b/x", r"bucle\[gcs\]"),
    ("abfs://b/x", r"bucle\[azure\]"),
])
def test_urls_that_cannot_be_meant(tmp_path: Path, url: str, said: str) -> None:
    import re

    with pytest.raises(ConfigError) as caught:
        pull(tmp_path, url)
    assert re.search(said, str(caught.value))


def test_options_come_from_the_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE"):
        pull(tmp_path, "memory://b", options={"secret": "env:NO_SUCH_VARIABLE"})


def test_a_table_of_a_store(memory: Any, tmp_path: Path) -> None:
    put(memory, **{"/b/t.csv": "texto,label\nhola,a\n"})
    source = StoreSource(kind="store", url="memory://b/t.csv")
    assert fetch_rows(source, tmp_path, tmp_path / "m").read_text() == "texto,label\nhola,a\n"
    put(memory, **{"/b/t.csv": "texto,label\nadios,b\n"})
    assert fetch_rows(source, tmp_path, tmp_path / "m", force=True).read_text() == "texto,label\nadios,b\n"
    with pytest.raises(BadInput, match="not one file"):
        fetch_rows(StoreSource(kind="store", url="memory://b"), tmp_path, tmp_path / "m")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a real S3 server on loopback, with a bucket `cubo`."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    monkeypatch.setenv("CLAVE", "c1av3-s3cr3ta")
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import s3fs

    fs = s3fs.S3FileSystem(key="yo", secret="c1av3-s3cr3ta", endpoint_url=f"http://{host}:{port}",
                           skip_instance_cache=True)
    fs.mkdir("cubo")
    fs.endpoint = f"http://{host}:{port}"
    yield fs
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_s3_for_real(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"key": "yo", "secret": "env:CLAVE", "endpoint_url": s3.endpoint}
    put(s3, **{"cubo/docs/a.md": "uno", "cubo/docs/sub/b.md": "dos", "cubo/docs/año 1.md": "también",
             "cubo/x.md": "no", "cubo/docs/.access": "interno"})
    found = pull(tmp_path, "s3://cubo/docs", options=options)
    assert sorted(texts(found).values()) == ["dos", "también", "uno"]
    assert found.files[0].origin == "s3://cubo/docs/a.md"
    assert {f.access for f in found.files} == {("interno",)}
    put(s3, **{"cubo/docs/a.md": "UNO"})
    s3.rm("cubo/docs/sub/b.md")
    later = pull(tmp_path, "s3://cubo/docs", options=options)
    assert (later.changes.changed, later.changes.deleted) == (["a.md"], ["sub/b.md"])
    with pytest.raises(Infrastructure) as caught:
        pull(tmp_path, "s3://nadie/docs", options=options)
    kept = b"".join(f.read_bytes() for f in tmp_path.rglob("*") if f.is_file())
    assert "c1av3" not in str(caught.value) + kept.decode()


def test_s3_without_its_package_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'bucle\[s3\]'"):
        pull(tmp_path, "s3://cubo/docs")
