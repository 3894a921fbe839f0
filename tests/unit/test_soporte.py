"""El ejemplo de soporte: recuentos, propiedades y generación determinista."""

from __future__ import annotations

import collections
import importlib.util
import json
import re
import sys
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RAIZ = Path(__file__).resolve().parents[2] / "examples" / "soporte"
DATOS = RAIZ / "data"
DOCS = RAIZ / "docs"
INICIO = datetime.fromisoformat("2026-09-07T00:00:00+02:00")


def _jsonl(nombre: str) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (DATOS / nombre).read_text(encoding="utf-8").splitlines()]


def _tsv() -> list[dict[str, str]]:
    lineas = (DATOS / "mensajes.tsv").read_text(encoding="utf-8").splitlines()
    cabecera = lineas[0].split("\t")
    assert cabecera == ["id", "texto", "intencion", "fecha", "cliente"]
    return [dict(zip(cabecera, x.split("\t"), strict=True)) for x in lineas[1:]]


@pytest.fixture(scope="module")
def generador() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soporte_generate", RAIZ / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    modulo = importlib.util.module_from_spec(spec)
    sys.modules["soporte_generate"] = modulo
    spec.loader.exec_module(modulo)
    return modulo


def test_datos_deterministas_e_iguales_a_los_guardados(generador: ModuleType, tmp_path: Path) -> None:
    generador.genera_datos(7, tmp_path / "a")
    guardados = sorted(p.name for p in DATOS.iterdir())
    assert guardados == sorted(p.name for p in (tmp_path / "a").iterdir())
    for nombre in guardados:
        assert (tmp_path / "a" / nombre).read_bytes() == (DATOS / nombre).read_bytes(), nombre
    generador.genera_datos(8, tmp_path / "b")
    assert (tmp_path / "b" / "mensajes.tsv").read_bytes() != (DATOS / "mensajes.tsv").read_bytes()


def test_documentos_deterministas(generador: ModuleType, tmp_path: Path) -> None:
    for lib in ("reportlab", "docx", "pptx", "xlsxwriter"):
        pytest.importorskip(lib)
    for carpeta in ("a", "b"):
        generador.genera_documentos(tmp_path / carpeta)
    rutas = sorted(p.relative_to(DOCS) for p in DOCS.rglob("*") if p.is_file())
    assert rutas == sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    for ruta in rutas:
        datos = (tmp_path / "a" / ruta).read_bytes()
        assert datos == (tmp_path / "b" / ruta).read_bytes(), ruta
        # los binarios dependen de la versión de la biblioteca
        if ruta.suffix in (".html", ".eml", ".txt", ".md"):
            assert datos == (DOCS / ruta).read_bytes(), ruta


def test_documentos_guardados() -> None:
    ficheros = [p for p in DOCS.rglob("*") if p.is_file()]
    assert 40 <= len(ficheros) <= 60
    tipos = collections.Counter(p.suffix for p in ficheros)
    assert set(tipos) == {".pdf", ".docx", ".pptx", ".xlsx", ".html", ".eml", ".txt", ".md"}
    assert [p.name for p in ficheros if p.stat().st_size == 0] == ["vacio.md"]
    assert sum(p.stat().st_size for p in [*ficheros, *DATOS.iterdir()]) < 3_000_000
    pypdf = pytest.importorskip("pypdf")
    assert pypdf.PdfReader(DOCS / "pdf/protocolo-fraude-interno.pdf").is_encrypted
    with pytest.raises(pypdf.errors.PyPdfError):
        _ = pypdf.PdfReader(DOCS / "pdf/anexo-danado.pdf").pages[0]


def test_texto_suficiente_y_datos_personales_con_control(generador: ModuleType) -> None:
    fuentes = sys.modules["_gen.fuentes"]
    texto = "\n".join(fuentes.limpia(x) for d in fuentes.lee_documentos() for x in d.lineas)
    assert len(texto.encode()) >= 150_000
    ibanes = re.findall(r"ES\d{2}(?: \d{4}){5}", texto)
    assert len(ibanes) >= 4
    for iban in ibanes:
        plano = iban.replace(" ", "")
        assert int(plano[4:] + "1428" + plano[2:4]) % 97 == 1
    dnis = re.findall(r"\b(\d{8})([A-Z])\b", texto)
    assert len(dnis) >= 6
    assert all("TRWAGMYFPDXBNJZSQVHLCKE"[int(n) % 23] == letra for n, letra in dnis)
    for tarjeta in re.findall(r"\b(?:\d{4} ){3}\d{4}\b(?! \d)", re.sub(r"ES\d{2}(?: \d{4}){5}", "", texto)):
        cifras = [int(c) for c in tarjeta if c.isdigit()][::-1]
        assert sum(c if k % 2 == 0 else sum(divmod(2 * c, 10)) for k, c in enumerate(cifras)) % 10 == 0


def test_mensajes() -> None:
    filas = _tsv()
    assert len(filas) == 800
    assert len({f["id"] for f in filas}) == 800
    cuentas = collections.Counter(f["intencion"] for f in filas)
    assert len(cuentas) == 12
    assert 0.15 <= max(cuentas.values()) / 800 <= 0.19
    assert 0.02 <= min(cuentas.values()) / 800 <= 0.035
    assert len({f["cliente"] for f in filas}) < 450
    assert all(re.fullmatch(r"c-\d{4}", f["cliente"]) for f in filas)
    fechas = [f["fecha"] for f in filas]
    assert min(fechas) >= "2026-03-07"
    assert max(fechas) <= "2026-09-06"
    errores = json.loads((DATOS / "mensajes.errores.json").read_text(encoding="utf-8"))["errores"]
    assert len(errores) == 24
    por_id = {f["id"]: f["intencion"] for f in filas}
    assert all(por_id[e["id"]] == e["etiqueta"] != e["verdadera"] for e in errores)


def test_preguntas(generador: ModuleType) -> None:
    preguntas = _jsonl("preguntas.jsonl")
    assert len(preguntas) == 120
    con = [p for p in preguntas if p["document"]]
    assert len(con) == 108
    assert len({p["document"] for p in con}) >= 30
    assert all(p["answer"] is None and p["support"] is None for p in preguntas if not p["document"])
    assert 0.15 <= sum(p["language"] == "en" for p in preguntas) / 120 <= 0.28
    fuentes = sys.modules["_gen.fuentes"]
    textos = {d.ruta: "\n".join(fuentes.limpia(x) for x in d.lineas) for d in fuentes.lee_documentos()}
    for p in con:
        assert (DOCS / p["document"]).is_file()
        assert p["support"] in textos[p["document"]]
        assert p["question"] not in textos[p["document"]]


def test_preferencias_sin_atajos() -> None:
    pares = _jsonl("preferencias.jsonl")
    assert len(pares) == 600
    cuentas = collections.Counter(p["aspect"] for p in pares)
    assert cuentas == {"tone": 200, "correctness": 200, "safety": 200}
    for aspecto in (None, "tone", "correctness", "safety"):
        grupo = [p for p in pares if aspecto in (None, p["aspect"])]
        gana = sum(len(p["chosen"]) > len(p["rejected"]) for p in grupo) / len(grupo)
        assert 0.45 <= gana <= 0.55, aspecto
    saldo: collections.Counter[str] = collections.Counter()
    for p in pares:
        a, b = (set(re.findall(r"\w+", p[k].lower())) for k in ("chosen", "rejected"))
        saldo.update(dict.fromkeys(a - b, 1))
        saldo.subtract(dict.fromkeys(b - a, 1))
    assert max(abs(v) for v in saldo.values()) / 1200 < 0.12  # ninguna palabra acierta más del 62 %


def test_registro() -> None:
    filas = _jsonl("registro.jsonl")
    verdad = json.loads((DATOS / "registro.verdad.json").read_text(encoding="utf-8"))
    assert set(verdad) == {f["id"] for f in filas}
    momentos = [datetime.fromisoformat(f["at"]) for f in filas]
    assert momentos == sorted(momentos)
    assert momentos[0] >= INICIO
    assert (momentos[-1] - INICIO).days <= 20
    assert 1450 <= len(filas) <= 1600
    dias = [(m - INICIO).days for m in momentos]
    movil = [d for f, d in zip(filas, dias, strict=True) if verdad[f["id"]].get("label") == "alta_movil"]
    assert min(movil) >= 14
    assert len(movil) >= 60
    semana3 = sum("label" in verdad[f["id"]] and d >= 14 for f, d in zip(filas, dias, strict=True))
    assert 0.2 <= len(movil) / semana3 <= 0.24
    ataques = [f for f in filas if f["user"] == "u-0666"]
    assert len(ataques) == 90
    assert all(f["review"] is None for f in ataques)
    assert {f["route"] for f in ataques} == {"intenciones", "redactor"}
    assert len({d for f, d in zip(filas, dias, strict=True) if f["user"] == "u-0666"}) == 2
    for antes, bajo, alto in ((True, 32, 48), (False, 135, 210)):
        ms = sorted(f["upstream_ms"] for f, d in zip(filas, dias, strict=True)
                    if f["route"] == "redactor" and (d < 16) == antes)
        assert bajo <= ms[len(ms) // 2] <= alto
    assert all((f["upstream_ms"] is None) == (f["route"] != "redactor") for f in filas)
    revisadas = [f for f in filas if f["route"] == "intenciones" and f["review"]]
    bien = sum(f["review"]["label"] == verdad[f["id"]]["label"] for f in revisadas) / len(revisadas)
    assert 0.96 <= bien <= 0.995
    conocidos = {f["texto"] for f in _tsv()}
    repes = sum(f["input"] in conocidos for f in filas)
    assert repes / len(filas) < 0.04


@pytest.mark.slow
def test_dificultad_de_los_mensajes() -> None:
    pytest.importorskip("sklearn")
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline, make_union

    filas = _tsv()
    textos, clases = [f["texto"] for f in filas], [f["intencion"] for f in filas]
    cortes = StratifiedKFold(5, shuffle=True, random_state=0)
    rasgos = make_union(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))
    lineal = make_pipeline(rasgos, LogisticRegression(C=20, max_iter=1000))
    vecino = make_pipeline(rasgos, KNeighborsClassifier(1, metric="cosine"))
    acierto = float(np.mean(cross_val_score(lineal, textos, clases, cv=cortes)))
    acierto_1nn = float(np.mean(cross_val_score(vecino, textos, clases, cv=cortes)))
    assert 0.80 <= acierto <= 0.94
    assert acierto_1nn < acierto
