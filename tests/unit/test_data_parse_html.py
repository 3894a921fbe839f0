"""Web pages in many styles: no content is lost, menus and banners stay out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bucle.data.parse import parse_file

LONG = "Puede dar de baja su contrato de electricidad en cualquier momento desde el área de clientes o por teléfono."
TABLE = "<table><thead><tr><th>Tarifa</th><th>Coste</th></tr></thead><tbody><tr><td>Plana</td><td>30</td></tr></table>"
MENU = "<ul><li><a href=/>ZInicio</a></li><li><a href=/l>ZLuz</a></li><li><a href=/g>ZGas</a></li></ul>"
COOKIES = "<div class='cookie-banner'>ZUsamos cookies propias. <button>ZAceptar</button></div>"

# What each page shows; whatever holds a capital Z is frame, all other words are content.
PAGES = {
    "article": f"<nav>{MENU}</nav><article><p>{LONG}</p>{TABLE}<p>Nota final.</p></article><footer>Zpie</footer>",
    "main": f"<header><a href=/>ZVoltaria</a>{MENU}</header>{COOKIES}<main><p>{LONG}</p>{TABLE}<p>Fin.</p></main>",
    "before": f"<h1>Baja</h1><p>Introducción corta.</p><article>{TABLE}</article>",
    "divs": f"<div id=menu>{MENU}</div><div class=content><h1>Baja</h1><p>Intro.</p><p>{LONG}</p><p>{LONG} Otra.</p>"
    f"{TABLE}<p>Nota de cierre.</p></div><div class=footer>Z© 2026 <a href=/x>ZAviso</a></div>",
    "asides": f"<main><h1>Baja</h1><p>{LONG}</p><aside><p>Importante: devuelva el contador.</p></aside></main>",
    "figure": f"<article><p>{LONG}</p><figure><img src=x.png><figcaption>Pantalla</figcaption></figure></article>",
    "quotes": f"<article><p>{LONG}</p><blockquote>En 21 días.</blockquote><ol><li>Entre</li><li>Pulse</li></ol>"
    "<pre>BAJA-01</pre><dl><dt>Plazo</dt><dd>21 días</dd></dl></article>",
    "names": "<div class=c><div>Precio: 30 euros</div><span>Suelto</span><br>Directo<div class=footer>Condiciones: IVA "
    "incluido</div><div class=comments>Comentario útil</div></div>",
    "cells": f"<main><p>{LONG}</p><table><tr><th>Plan</th><th>Coste</th></tr><tr><td><ul><li>Nocturna</li><li>Verano"
    "</li></ul></td><td>30<br>euros</td></tr></table></main>",
    "details": f"<main><p>{LONG}</p><details><summary>¿Y si me arrepiento?</summary><p>Tiene 14 días.</p></details>"
    "<button aria-expanded=false>¿Cuánto cuesta?</button><div hidden>Nada.</div></main>",
    "header": f"<article><header><h1>Título</h1><p>Entradilla.</p></header><p>{LONG}</p><footer>Autora: Ana</footer>"
    "</article>",
    "sidebar": f"<div class=sidebar>{MENU}</div><div><h1>Guía</h1><p>{LONG}</p></div><aside class=side>{MENU}</aside>",
    "caption": f"<p>{LONG}</p><table><caption>Precios de 2026</caption><tr><td>Alta</td><td>0</td></tr><tr><td>Baja"
    "</td><td>5</td></tr></table>",
    "links": "<h1>Índice</h1><ul><li><a href=1>Cómo cambiar la potencia de su contrato paso a paso</a></li>"
    "<li><a href=2>Qué hacer cuando se va la luz en toda la casa</a></li><li><a href=3>Baja del servicio sin coste "
    "alguno para usted</a></li></ul>",
    "contact": "<h1>Contacto</h1><address>Calle Mayor 1</address><p>Lunes a viernes</p><footer>Zlegal</footer>",
    "policy": f"<main><div class=cookies><p>Política: guardamos una galleta de sesión. {LONG}</p></div></main>",
}


@pytest.mark.parametrize("name", PAGES)
def test_all_content_and_no_frame(tmp_path: Path, name: str) -> None:
    page = f"<!doctype html><html lang=es><head><meta charset=utf-8><title>t</title></head><body>{PAGES[name]}</body>"
    (tmp_path / "a.html").write_text(page, encoding="utf-8")
    document = parse_file(tmp_path / "a.html", "a.html")
    shown = re.findall(r"\w+", re.sub(r"<[^>]*>", " ", PAGES[name]))
    frame = {"cookies", "propias", "2026"} if name in ("main", "divs") else set()
    kept = re.findall(r"\w+", document.text)
    assert sorted(kept) == sorted(word for word in shown if "Z" not in word and word not in frame)
    assert len([block for block in document.blocks if block.kind == "table"]) == PAGES[name].count("<table")


def test_items_in_a_cell_stand_apart(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGES["cells"], encoding="utf-8")
    assert "| Nocturna; Verano | 30 euros |" in parse_file(tmp_path / "a.html", "a.html").text
