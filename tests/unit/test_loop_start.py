"""`bucle init`: columns guessed on real files, nothing overwritten, nothing half written."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucle.core.config import load_project
from bucle.core.errors import BucleError
from bucle.core.tasks import ClassifyTask
from bucle.loop.start import start_project

INTENTS = Path(__file__).parents[2].parent / "shared" / "data" / "intents-es" / "train.tsv"
ROWS = [("No me llega la luz", "averia"), ("Quiero otra tarifa", "tarifa"), ("Sigo sin luz hoy", "averia"),
        ("¿Cuánto pago, en total?", "factura"), ("Mi factura, por favor", "factura"), ("Cambio de tarifa ya", "tarifa")]


def table(folder: Path, name: str = "filas.csv") -> Path:
    path = folder / name
    path.write_text("mensaje;etiqueta\n" + "".join(f"{a};{b}\n" for a, b in ROWS), encoding="utf-8")
    return path


@pytest.mark.skipif(not INTENTS.is_file(), reason=f"{INTENTS} is absent: real intents cannot be tried")
def test_real_intents_without_a_header_start_a_project(tmp_path: Path) -> None:
    made = start_project(tmp_path / "mi proyecto", INTENTS)
    assert {role: column.split("'")[1] for role, column in made["columns"].items()} == {
        "text": "column3", "label": "column1"}
    assert (made["rows"], made["left_out"], len(made["labels"])) == (3617, 0, 12)
    project = load_project(tmp_path / "mi proyecto")
    task = project.tasks["labels"]
    assert isinstance(task, ClassifyTask)
    assert (tmp_path / "mi proyecto" / task.data).resolve() == INTENTS.resolve()
    assert (project.project, task.text, task.label) == ("mi proyecto", "column3", "column1")


def test_the_file_stays_where_it_is_and_the_reasons_are_shown(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    made = start_project(tmp_path / "p", table(tmp_path), docs=tmp_path / "docs", label="etiqueta", language="en")
    project = load_project(tmp_path / "p")
    assert project.tasks["labels"].data == "../filas.csv"
    assert project.data.documents is not None
    assert (project.data.documents[0].path, project.language) == ("../docs", "en")
    assert made["columns"]["label"] == "'etiqueta' (given)"
    assert "called 'mensaje'" in made["columns"]["text"]
    assert made["labels"] == {"averia": 2, "tarifa": 2, "factura": 2}
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["bucle.yaml"]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "bucle.yaml").write_text("mine")
    for source in (None, table(tmp_path)):
        with pytest.raises(BucleError, match="already there") as caught:
            start_project(tmp_path, source)
        assert "bucle run" in caught.value.hint
    assert (tmp_path / "bucle.yaml").read_text() == "mine"


def test_without_a_file_the_next_step_is_told(tmp_path: Path) -> None:
    made = start_project(tmp_path / "vacío", None)
    assert "examples.csv" in made["next"]
    assert load_project(tmp_path / "vacío").tasks["labels"].data == "data/examples.csv"


@pytest.mark.parametrize("name", ["x" * 300, "../../etc", "a/b", "-", "  ", "ñandú 24 h", "a\nb", "'\"{}", "2026"])
def test_any_name_gives_a_project_that_can_be_read(tmp_path: Path, name: str) -> None:
    start_project(tmp_path, None, name=name)
    assert load_project(tmp_path).project


@pytest.mark.parametrize(("content", "how"), [
    ("a;b\n1;2\n3;4\n", {}),
    ("texto;etiqueta\n" + "".join(f"frase número {i};etiqueta{i}\n" for i in range(20)), {"label": "etiqueta"}),
    ("texto;etiqueta\nuna frase;a\notra frase;a\n", {"label": "etiqueta", "text": "texto"}),
    ("mensaje;etiqueta\nuna frase;a\notra frase;b\n", {"label": "no_hay"}),
    ("", {}),
])
def test_a_file_that_cannot_teach_leaves_nothing_behind(tmp_path: Path, content: str, how: dict[str, str]) -> None:
    source = tmp_path / "filas.csv"
    source.write_text(content)
    with pytest.raises(BucleError) as caught:
        start_project(tmp_path / "p", source, **how)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "p").exists()


def test_what_is_named_must_exist(tmp_path: Path) -> None:
    for how in ({"source": tmp_path / "no.csv"}, {"source": table(tmp_path), "docs": tmp_path / "no"}):
        with pytest.raises(BucleError) as caught:
            start_project(tmp_path / "p", **how)  # type: ignore[arg-type]
        assert caught.value.hint.startswith("bucle init")
    assert not (tmp_path / "p").exists()


def test_documents_alone_are_a_project(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    made = start_project(tmp_path / "p", None, docs=tmp_path / "docs")
    project = load_project(tmp_path / "p")
    assert project.data.documents is not None
    assert (project.data.documents[0].path, dict(project.tasks)) == ("../docs", {})
    assert "bucle data bootstrap" in made["next"]
    with pytest.raises(BucleError, match="is not a folder"):
        start_project(tmp_path / "q", None, docs=tmp_path / "none")
    assert not (tmp_path / "q").exists()
