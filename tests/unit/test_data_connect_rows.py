"""Queries and datasets: rows as documents and as a task's table, from SQLite, PostgreSQL and Hugging Face's formats."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, BucleError, ConfigError, Infrastructure
from bucle.core.sources import HuggingFaceSource, SqlSource
from bucle.data.connect import Synced, fetch_rows, sync
from bucle.data.tables import read_table

sys.path.insert(0, str(Path(__file__).parents[1]))

import postgres


def database(project: Path, rows: list[tuple[Any, ...]]) -> Path:
    with sqlite3.connect(project / "soporte.db") as made:
        made.execute("CREATE TABLE IF NOT EXISTS nota (id TEXT, titulo TEXT, cuerpo TEXT, dia TEXT)")
        made.execute("DELETE FROM nota")
        made.executemany("INSERT INTO nota VALUES (?, ?, ?, ?)", rows)
    made.close()
    return project


def query(project: Path, asked: str = "SELECT * FROM nota ORDER BY id", **source: object) -> Synced:
    made = {"kind": "sql", "url": "sqlite:///soporte.db", "query": asked, "id": "id", "title": "titulo",
            "text": ["cuerpo"], **source}
    return sync(SqlSource.model_validate(made), project, project / "m", force=True)


def texts(found: Synced) -> dict[str, str]:
    return {file.path: (found.root / file.path).read_text() for file in found.files}


def test_a_row_is_a_document_and_only_what_changed_is_written(tmp_path: Path) -> None:
    database(tmp_path, [("1", "Alta", "Cómo darse\nde alta.", ""), ("2", "Baja", "Adiós.", ""), ("3", "", "Sin.", "")])
    found = query(tmp_path)
    assert texts(found) == {"1.md": "# Alta\n\nCómo darse\nde alta.\n", "2.md": "# Baja\n\nAdiós.\n", "3.md": "Sin.\n"}
    assert found.files[0].origin == "sqlite:///soporte.db#1"
    kept = (found.root / "1.md").stat().st_mtime_ns
    database(tmp_path, [("1", "Alta", "Cómo darse\nde alta.", ""), ("3", "", "Otra.", ""), ("9", "", "Sin.", "")])
    later = query(tmp_path)
    assert (later.changes.added, later.changes.changed, later.changes.deleted) == (["9.md"], ["3.md"], ["2.md"])
    assert (later.root / "1.md").stat().st_mtime_ns == kept
    assert not (later.root / "2.md").exists()


def test_a_row_that_changes_while_a_sync_lies_broken_is_read_anew(tmp_path: Path) -> None:
    database(tmp_path, [("1", "", "uno", ""), ("2", "", b"\x00", "")])
    with pytest.raises(BadInput, match="bytes"):
        query(tmp_path)
    database(tmp_path, [("1", "", "otro", ""), ("2", "", "dos", "")])
    assert texts(query(tmp_path)) == {"1.md": "otro\n", "2.md": "dos\n"}


def test_a_query_is_asked_once_a_run(tmp_path: Path) -> None:
    source = SqlSource(kind="sql", url="sqlite:///soporte.db", query="SELECT * FROM nota", refresh_hours=0)
    before = fetch_rows(source, database(tmp_path, [("1", "a", "b", "")]), tmp_path / "m").read_bytes()
    database(tmp_path, [("2", "c", "d", "")])
    assert fetch_rows(source, tmp_path, tmp_path / "m").read_bytes() == before
    assert fetch_rows(source, tmp_path, tmp_path / "m", force=True).read_bytes() != before


def test_ids_that_are_no_names_repeat_or_lead_away(tmp_path: Path) -> None:
    ids = ["../../etc/passwd", "a/b", "a-b", "a b", "", "x" * 300, "a-b", "CON\n", "ñandú", "..", ".oculto"]
    database(tmp_path, [(i, "", f"texto {n}", "") for n, i in enumerate(ids)])
    found = query(tmp_path, "SELECT * FROM nota ORDER BY rowid")
    assert len({f.path for f in found.files}) == len(ids)
    assert sorted(texts(found).values()) == sorted(f"texto {n}\n" for n in range(len(ids)))
    assert {p.parent for p in found.root.rglob("*.md")} == {found.root}
    assert "ñandú.md" in texts(found)


def test_without_text_columns_all_are_told_by_name(tmp_path: Path) -> None:
    database(tmp_path, [("1", "T", "c", "2026-01-02")])
    assert texts(query(tmp_path, text=[])) == {"1.md": "# T\n\n**cuerpo**: c\n\n**dia**: 2026-01-02\n"}
    assert texts(query(tmp_path, text=[], title="", id="")) == {
        "row-000001.md": "**id**: 1\n\n**titulo**: T\n\n**cuerpo**: c\n\n**dia**: 2026-01-02\n"
    }


@pytest.mark.parametrize(("text", "error", "said"), [
    ("DELETE FROM nota", ConfigError, "SELECT"),
    ("WITH x AS (SELECT 1) DELETE FROM nota", BucleError, "refuses|SELECT"),
    ("SELECT * FROM nada", BadInput, "nada"),
    ("SELECT 1 AS a, 2 AS a", BadInput, "two columns"),
    ("SELECT id, titulo, x'00ff' AS cuerpo FROM nota", BadInput, "bytes"),
    ("SELECT id AS otro FROM nota", BadInput, "no column"),
    ("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) AS id FROM n",
     BadInput, "took over"),
])
def test_queries_that_cannot_be_meant(tmp_path: Path, text: str, error: type[BucleError], said: str) -> None:
    database(tmp_path, [("1", "T", "c", "")])
    with pytest.raises(error, match=said):
        query(tmp_path, text, timeout_s=0.3)
    with sqlite3.connect(tmp_path / "soporte.db") as made:
        assert made.execute("SELECT count(*) FROM nota").fetchone() == (1,)
    made.close()


def test_colons_and_percents_in_a_query_are_its_own(tmp_path: Path) -> None:
    database(tmp_path, [("1", "a las 12:30", "100% :si", "")])
    found = query(tmp_path, "SELECT * FROM nota WHERE titulo LIKE '%:30' AND cuerpo = '100% :si'")
    assert len(found.files) == 1


def test_a_database_that_is_not_there_is_not_made_and_one_that_went_leaves_its_mirror(tmp_path: Path) -> None:
    with pytest.raises(Infrastructure, match="cannot be reached"):
        query(tmp_path)
    assert not (tmp_path / "soporte.db").exists()
    query(database(tmp_path, [("1", "T", "c", "")]))
    (tmp_path / "soporte.db").unlink()
    found = query(tmp_path)
    assert len(found.files) == 1
    assert "cannot be reached" in found.note


def test_rows_of_a_task_stream_into_json_lines(tmp_path: Path) -> None:
    database(tmp_path, [(str(n), "línea\u2028", None, "") for n in range(3000)])
    source = SqlSource(kind="sql", url="sqlite:///soporte.db", query="SELECT *, 1.5 AS n FROM nota", max_rows=2500)
    path = fetch_rows(source, tmp_path, tmp_path / "m")
    table = read_table(path)
    assert (len(table.rows), table.columns) == (2500, ("id", "titulo", "cuerpo", "dia", "n"))
    assert table.rows[7] == ("7", "línea", "", "", "1.5")
    manifest = json.loads(next(tmp_path.rglob("manifest.json")).read_bytes())
    assert manifest["problems"][0]["reason"] == "too-many"
    before = path.read_bytes()
    (tmp_path / "soporte.db").unlink()
    assert fetch_rows(source, tmp_path, tmp_path / "m", force=True).read_bytes() == before
    empty = source.model_copy(update={"query": "SELECT * FROM nota WHERE 0", "refresh_hours": 0})
    with pytest.raises(BadInput, match="no rows"):
        fetch_rows(empty, database(tmp_path, []), tmp_path / "m")


def test_a_password_in_bucle_yaml_is_refused_and_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("postgresql://u:cl4ve@127.0.0.1:1/x", "postgresql://127.0.0.1:1/x?password=cl4ve"):
        with pytest.raises(ConfigError, match="url_env") as caught:
            query(tmp_path, url=url)
        assert "cl4ve" not in str(caught.value)
        monkeypatch.setenv("DB", url)
        with pytest.raises(Infrastructure) as away:
            query(tmp_path, url="", url_env="DB")
        assert "cl4ve" not in str(away.value)
    with pytest.raises(ConfigError, match="NADA"):
        query(tmp_path, url="", url_env="NADA")
    with pytest.raises(ConfigError, match="no SQLAlchemy URL"):
        query(tmp_path, url="esto no es")


@pytest.mark.parametrize(("url", "extra"), [
    ("snowflake://u@account/db", r"bucle\[snowflake\]"), ("databricks://h", r"bucle\[databricks\]"),
    ("nada://h/x", "driver"),
])
def test_a_driver_that_is_not_installed_is_named(tmp_path: Path, url: str, extra: str) -> None:
    with pytest.raises(ConfigError) as caught:
        query(tmp_path, url=url)
    assert __import__("re").search(extra, str(caught.value))


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A connection to a real PostgreSQL with a table of every type that needs care."""
    from sqlalchemy import create_engine

    monkeypatch.setenv("BUCLE_URL", postgres.url())
    engine = create_engine(postgres.url())
    with engine.connect() as connection:
        run = connection.exec_driver_sql
        run("DROP TABLE IF EXISTS queja")
        run("CREATE TABLE queja (id uuid PRIMARY KEY, titulo text, importe numeric(10,2), cuando timestamptz, dia date,"
            " datos jsonb, viva boolean, etiquetas text[], crudo bytea)")
        run("INSERT INTO queja SELECT ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, 'Queja ' || n,"
            " n + 0.10, '2026-03-01T10:00:00+01', '2026-03-01', '{\"a\": [1, null]}', mod(n, 2) = 0,"
            " '{x,\"y z\"}', '\\x00' FROM generate_series(1, 5000) n")
        connection.commit()
        yield connection
        connection.rollback()
        run("DROP TABLE queja")
        connection.commit()
    engine.dispose()


def ask(query: str, **source: object) -> SqlSource:
    return SqlSource.model_validate({"kind": "sql", "url_env": "BUCLE_URL", "query": query, "timeout_s": 20, **source})


def test_postgresql_rows_with_every_type(table: Any, tmp_path: Path) -> None:
    columns = "id, titulo, importe, cuando AT TIME ZONE 'UTC' AS cuando, dia, datos, viva, etiquetas"
    source = ask(f"SELECT {columns} FROM queja WHERE titulo LIKE '%ja %' ORDER BY id")
    path = fetch_rows(source, tmp_path, tmp_path / "m")
    lines = path.read_text().splitlines()
    assert len(lines) == 5000
    assert json.loads(lines[0]) == {
        "id": "00000000-0000-0000-0000-000000000001", "titulo": "Queja 1", "importe": "1.10",
        "cuando": "2026-03-01T09:00:00", "dia": "2026-03-01", "datos": {"a": [1, None]}, "viva": "false",
        "etiquetas": ["x", "y z"],
    }
    with pytest.raises(BadInput, match="'crudo' holds bytes"):
        fetch_rows(ask("SELECT crudo FROM queja"), tmp_path, tmp_path / "m")


def test_postgresql_documents_are_incremental(table: Any, tmp_path: Path) -> None:
    source = ask("SELECT id, titulo FROM queja WHERE importe < 11", id="id", text=["titulo"], name="quejas")
    found = sync(source, tmp_path, tmp_path / "m")
    assert len(found.files) == 10
    assert found.files[0].origin.endswith("/postgres#00000000-0000-0000-0000-000000000001")
    assert "clave-de-prueba" not in found.files[0].origin
    table.exec_driver_sql("UPDATE queja SET titulo = 'Nueva' WHERE importe < 2")
    table.exec_driver_sql("DELETE FROM queja WHERE importe BETWEEN 2 AND 3")
    table.commit()
    later = sync(source, tmp_path, tmp_path / "m", force=True).changes
    assert (len(later.changed), len(later.deleted), later.unchanged) == (1, 1, 8)


def test_postgresql_is_only_read_and_stops_in_time(table: Any, tmp_path: Path) -> None:
    for text in ("WITH x AS (DELETE FROM queja RETURNING id) SELECT * FROM x", "SELECT 1; DELETE FROM queja",
                 "SELECT setval('s', 1)"):
        with pytest.raises(BadInput, match="refuses"):
            fetch_rows(ask(text), tmp_path, tmp_path / "m")
    assert table.exec_driver_sql("SELECT count(*) FROM queja").scalar() == 5000
    with pytest.raises(BadInput, match="took over"):
        fetch_rows(ask("SELECT pg_sleep(30)::text AS a", timeout_s=0.3), tmp_path, tmp_path / "m")


def test_postgresql_streams_in_constant_memory(table: Any, tmp_path: Path) -> None:
    """A result of 300 MB, of which the first rows are there at once: no client could have fetched it whole."""
    import time
    import tracemalloc

    began = time.monotonic()
    tracemalloc.start()
    path = fetch_rows(ask("SELECT n AS id, repeat('x', 3000) AS t FROM generate_series(1, 100000) n", max_rows=3000),
                      tmp_path, tmp_path / "m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(path.read_bytes().splitlines()) == 3000
    assert peak < 60 * 2**20
    assert time.monotonic() - began < 20


def test_postgresql_passwords_are_in_no_message(table: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (
        postgres.url().replace("clave-de-prueba", "otra%40clave"), "postgresql+psycopg://u:otra%40clave@nada.invalid/x",
    ):
        monkeypatch.setenv("BUCLE_URL", wrong)
        with pytest.raises(Infrastructure, match="cannot be reached") as caught:
            fetch_rows(ask("SELECT 1 AS a"), tmp_path, tmp_path / "m")
        assert "clave" not in str(caught.value)


def dataset(project: Path, **source: object) -> Synced:
    made = {"kind": "huggingface", "path": "ds", "id": "id", "text": ["t"], **source}
    return sync(HuggingFaceSource.model_validate(made), project, project / "m", force=True)


def test_hugging_face_folders_of_every_kind(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_list([{"id": n, "t": f"texto {n}"} for n in range(3)])
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(tmp_path / "guardado"))
    rows.save_to_disk(str(tmp_path / "uno"))
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "train.jsonl").write_text('{"id": 1, "t": "a"}\n{"id": 2, "t": "b"}\n')
    (tmp_path / "pq").mkdir()
    rows.to_parquet(str(tmp_path / "pq" / "train-00000-of-00001.parquet"))
    assert texts(dataset(tmp_path)) == {"1.md": "a\n", "2.md": "b\n"}
    for path in ("guardado", "uno", "pq"):
        assert list(texts(dataset(tmp_path, path=path)).values()) == ["texto 0\n", "texto 1\n", "texto 2\n"], path
    assert len(dataset(tmp_path, path="guardado", split="test").files) == 1
    for path in ("guardado", "pq"):
        with pytest.raises(BadInput, match="no split 'nada'"):
            dataset(tmp_path, path=path, split="nada")
    found = dataset(tmp_path, path="pq", max_rows=2)
    assert (len(found.files), found.problems[0].reason) == (2, "too-many")
    task = HuggingFaceSource(kind="huggingface", path="pq")
    assert read_table(fetch_rows(task, tmp_path, tmp_path / "m")).rows[2] == ("2", "texto 2")


def test_hugging_face_runs_no_code_and_reads_no_pickles(tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "ds.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "ds" / "train.pkl").write_bytes(pickle.dumps(Bomb()))
    for path in ("ds", "pandas", "./ds/ds.py", "/etc"):
        with pytest.raises(BadInput):
            dataset(tmp_path, path=path)
    assert not (tmp_path / "ran").exists()


def test_the_hub_offline_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Infrastructure, match="HF_HUB_OFFLINE"):
        dataset(tmp_path, path="owner/name")
