"""`bucle data quarantine --retry`, as a user gives it: the password from an environment variable, never kept."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bucle.cli.data_lists import commands
from bucle.core.errors import BadInput, BucleError, ConfigError, NotFound
from bucle.data.parse import retried

PASSWORD = "clave-larga-7"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    (tmp_path / "docs").mkdir()
    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption(PASSWORD, canPrint=0))
    canvas.drawString(60, 700, "Contrato reservado de suministro con la tarifa plana de veinte euros.")
    canvas.save()
    (tmp_path / "docs" / "año 1.pdf").write_bytes(buffer.getvalue())
    (tmp_path / "docs" / "a.txt").write_text("La tarifa plana cuesta veinte euros al mes.", encoding="utf-8")
    (tmp_path / "docs" / "roto.docx").write_bytes(b"PK\x03\x04 nada")
    (tmp_path / "datos.csv").write_text(
        "texto,etiqueta\n"
        + "".join(f"mensaje número {n} sobre luz,{'alta' if n % 2 else 'baja'}\n" for n in range(40)),
        encoding="utf-8",
    )
    (tmp_path / "bucle.yaml").write_text(
        "project: p\ndata:\n  documents: {path: docs}\n"
        "tasks:\n  intenciones: {kind: classify, data: datos.csv, text: texto, label: etiqueta}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("CLAVE_MALA", "otra")
    monkeypatch.setenv("CLAVE", PASSWORD)
    return tmp_path


def run(project: Path, *arguments: str) -> dict[str, object]:
    found = CliRunner().invoke(
        commands["quarantine"], ["-p", str(project), "--json", *arguments], catch_exceptions=False
    )
    assert found.exit_code == 0
    told: dict[str, object] = json.loads(found.stdout)
    return told


def test_a_retry_is_in_the_next_run_without_its_password(project: Path) -> None:
    def left() -> dict[str, str]:
        return {one["path"]: one["reason"] for one in run(project)["quarantine"]}  # type: ignore[attr-defined]

    assert left() == {"año 1.pdf": "encrypted", "roto.docx": "corrupt"}
    with pytest.raises(BadInput, match="does not open it") as wrong:
        run(project, "--retry", "año 1.pdf", "--password-env", "CLAVE_MALA")
    assert "--retry 'año 1.pdf'" in wrong.value.hint
    with pytest.raises(BadInput, match="needs a password"):
        run(project, "--retry", "año 1.pdf")
    assert left() == {"año 1.pdf": "encrypted", "roto.docx": "corrupt"}
    told = run(project, "--retry", "año 1.pdf", "--password-env", "CLAVE")
    assert told["retried"] == "año 1.pdf"
    assert str(told["next"]).startswith("bucle run")
    assert left() == {"roto.docx": "corrupt"}
    for file in (project / ".bucle").rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        (("--retry", "nada.pdf"), NotFound, "No source of this project"),
        (("--retry", "roto.docx"), BadInput, "still in quarantine"),
        (("--retry", "año 1.pdf", "--password-env", "NADIE"), ConfigError, "is not set"),
    ],
)
def test_what_cannot_be_retried_is_said(
    project: Path, arguments: tuple[str, ...], error: type[BucleError], told: str
) -> None:
    with pytest.raises(error, match=told):
        run(project, *arguments)
    assert retried(project / ".bucle" / "parsed") == ""
