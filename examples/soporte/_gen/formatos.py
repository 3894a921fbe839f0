"""Escritura determinista de los documentos en cada formato."""

from __future__ import annotations

import html
import io
import zipfile
from datetime import datetime
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from .fuentes import Documento, limpia

FECHA = datetime(2026, 3, 2, 9, 0, 0)
CLAVE = "voltaria2026"
_MARCAS = (("## ", "h2"), ("# ", "h1"), ("- ", "li"), ("NOTE: ", "nota"), ("NOTA: ", "nota"))


def _celdas(linea: str) -> list[str]:
    return [c.strip() for c in linea.strip().strip("|").split("|")]


def _bloques(doc: Documento) -> list[tuple[str, Any]]:
    """Pares (tipo, contenido): h1, h2, p, li, nota, tabla."""
    salida: list[tuple[str, Any]] = []
    for linea in doc.lineas:
        if linea.startswith("|"):
            if salida and salida[-1][0] == "tabla":
                salida[-1][1].append(_celdas(linea))
            else:
                salida.append(("tabla", [_celdas(linea)]))
            continue
        tipo = "p"
        for marca, nombre in _MARCAS:
            if linea.startswith(marca):
                tipo = nombre
                break
        if linea.strip():
            salida.append((tipo, limpia(linea)))
    return salida


def _zip_fijo(datos: bytes) -> bytes:
    """El mismo ZIP con fechas y atributos fijos."""
    salida = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(datos)) as origen, zipfile.ZipFile(salida, "w") as destino:
        for nombre in origen.namelist():
            info = zipfile.ZipInfo(nombre, date_time=(2026, 3, 2, 9, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o600 << 16
            info.create_system = 3
            destino.writestr(info, origen.read(nombre), compresslevel=9)
    return salida.getvalue()


def pdf(doc: Documento) -> bytes:
    """PDF con reportlab; a una o dos columnas y, si se pide, cifrado."""
    from reportlab.lib import colors  # type: ignore[import-untyped]
    from reportlab.lib.enums import TA_LEFT  # type: ignore[import-untyped]
    from reportlab.lib.pagesizes import A4  # type: ignore[import-untyped]
    from reportlab.lib.pdfencrypt import StandardEncryption  # type: ignore[import-untyped]
    from reportlab.lib.styles import ParagraphStyle  # type: ignore[import-untyped]
    from reportlab.lib.units import cm  # type: ignore[import-untyped]
    from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate, Paragraph, Spacer, Table  # type: ignore[import-untyped]

    columnas = int(doc.opciones.get("columns", "1"))
    cuerpo = ParagraphStyle("cuerpo", fontName="Helvetica", fontSize=9.5, leading=13, alignment=TA_LEFT)
    h1 = ParagraphStyle("h1", parent=cuerpo, fontName="Helvetica-Bold", fontSize=16, leading=20, spaceAfter=8)
    h2 = ParagraphStyle("h2", parent=h1, fontSize=11, leading=14, spaceBefore=8, spaceAfter=3)
    celda = ParagraphStyle("celda", parent=cuerpo, fontSize=8.5, leading=11)
    flujo: list[Any] = []
    for tipo, dato in _bloques(doc):
        if tipo == "tabla":
            filas = [[Paragraph(html.escape(c), celda) for c in fila] for fila in dato]
            tabla = Table(filas, hAlign="LEFT")
            rejilla = ("GRID", (0, 0), (-1, -1), 0.4, colors.grey)
            tabla.setStyle([rejilla, ("VALIGN", (0, 0), (-1, -1), "TOP")])
            flujo += [Spacer(1, 4), tabla, Spacer(1, 6)]
        else:
            flujo.append(Paragraph(html.escape(dato), {"h1": h1, "h2": h2}.get(tipo, cuerpo)))

    def pie(lienzo: Any, plantilla: Any) -> None:
        lienzo.setFont("Helvetica", 7)
        lienzo.drawString(2 * cm, 1.1 * cm, f"Voltaria Energía y Redes · {doc.titulo} · {plantilla.page}")

    salida = io.BytesIO()
    cifrado = None
    if "encrypt" in doc.opciones:
        cifrado = StandardEncryption(CLAVE, ownerPassword="propietario-voltaria", strength=128)
    plantilla = BaseDocTemplate(
        salida, pagesize=A4, title=doc.titulo, author="Voltaria", invariant=1, pageCompression=0,
        encrypt=cifrado,
    )
    hueco = 0.8 * cm
    ancho = (A4[0] - 4 * cm - hueco * (columnas - 1)) / columnas
    marcos = [
        Frame(2 * cm + i * (ancho + hueco), 1.8 * cm, ancho, A4[1] - 3.8 * cm, 0, 0, 0, 0)
        for i in range(columnas)
    ]
    plantilla.addPageTemplates([PageTemplate(frames=marcos, onPage=pie)])
    plantilla.build(flujo)
    return salida.getvalue()


def docx(doc: Documento) -> bytes:
    """DOCX con títulos y tabla."""
    from docx import Document

    fichero = Document()
    for tipo, dato in _bloques(doc):
        if tipo == "tabla":
            tabla = fichero.add_table(rows=len(dato), cols=len(dato[0]))
            tabla.style = "Table Grid"
            for i, fila in enumerate(dato):
                for j, texto in enumerate(fila):
                    tabla.cell(i, j).text = texto
        elif tipo in ("h1", "h2"):
            fichero.add_heading(dato, level=int(tipo[1]))
        else:
            fichero.add_paragraph(dato)
    nucleo = fichero.core_properties
    nucleo.title, nucleo.author, nucleo.last_modified_by = doc.titulo, "Voltaria", "Voltaria"
    nucleo.created = nucleo.modified = FECHA
    salida = io.BytesIO()
    fichero.save(salida)
    return _zip_fijo(salida.getvalue())


def pptx(doc: Documento) -> bytes:
    """PPTX con notas del orador."""
    from pptx import Presentation

    fichero: Any = Presentation()
    diapositiva: Any = None
    primera = True
    for tipo, dato in _bloques(doc):
        if tipo == "h2":
            diapositiva = fichero.slides.add_slide(fichero.slide_layouts[1])
            diapositiva.shapes.title.text = dato
            primera = True
        elif tipo == "li":
            marco = diapositiva.placeholders[1].text_frame
            (marco.paragraphs[0] if primera else marco.add_paragraph()).text = dato
            primera = False
        else:
            diapositiva.notes_slide.notes_text_frame.text = dato
    nucleo = fichero.core_properties
    nucleo.title, nucleo.author, nucleo.last_modified_by = doc.titulo, "Voltaria", "Voltaria"
    nucleo.created = nucleo.modified = FECHA
    salida = io.BytesIO()
    fichero.save(salida)
    return _zip_fijo(salida.getvalue())


def _valor(texto: str) -> str | float:
    try:
        return float(texto.replace(".", "").replace(",", ".")) if "," in texto else texto
    except ValueError:
        return texto


def xlsx(doc: Documento) -> bytes:
    """XLSX: una hoja por apartado, con la tabla y sus notas debajo."""
    import xlsxwriter  # type: ignore[import-untyped]

    salida = io.BytesIO()
    libro = xlsxwriter.Workbook(salida, {"in_memory": True})
    libro.set_properties({"title": doc.titulo, "author": "Voltaria", "created": FECHA})
    negrita = libro.add_format({"bold": True})
    hoja: Any = None
    fila = 0
    for tipo, dato in _bloques(doc):
        if tipo == "h2":
            hoja, fila = libro.add_worksheet(dato), 0
            hoja.set_column(0, 5, 24)
        elif tipo == "tabla":
            for i, celdas in enumerate(dato):
                for j, texto in enumerate(celdas):
                    hoja.write(fila, j, texto if i == 0 else _valor(texto), negrita if i == 0 else None)
                fila += 1
            fila += 1
        else:
            hoja.write(fila, 0, dato)
            fila += 1
    libro.close()
    return _zip_fijo(salida.getvalue())


def pagina_html(doc: Documento) -> bytes:
    """HTML con menú, script, aviso de cookies y pie, como una web de verdad."""
    partes: list[str] = []
    for tipo, dato in _bloques(doc):
        if tipo == "tabla":
            filas = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in f) + "</tr>" for f in dato)
            partes.append(f"<table>{filas}</table>")
        else:
            partes.append(f"<{tipo}>{html.escape(dato)}</{tipo}>")
    cuerpo = "\n".join(partes)
    return f"""<!DOCTYPE html>
<html lang="{doc.idioma}">
<head>
<meta charset="utf-8">
<title>{html.escape(doc.titulo)} | Voltaria</title>
<link rel="stylesheet" href="/assets/site.css">
<script>window.dataLayer = window.dataLayer || []; function gtagFalso(){{dataLayer.push(arguments);}}</script>
<style>nav li {{ display: inline; margin-right: 1em }} .cookies {{ position: fixed; bottom: 0 }}</style>
</head>
<body>
<header><a href="/">Voltaria</a>
<nav><ul><li><a href="/luz">Luz</a></li><li><a href="/gas">Gas</a></li><li><a href="/fibra">Fibra</a></li>\
<li><a href="/ayuda">Ayuda</a></li><li><a href="/cliente">Área de cliente</a></li></ul></nav></header>
<div class="cookies">Usamos cookies propias y de terceros. \
<button>Aceptar</button> <button>Rechazar</button></div>
<main>
{cuerpo}
</main>
<aside><h3>También te puede interesar</h3><ul><li><a href="/dúo">Pack Dúo</a></li>\
<li><a href="/tranquilo">Tranquilo</a></li></ul></aside>
<footer><p>© Voltaria (empresa ficticia)</p>\
<a href="/legal">Aviso legal</a> <a href="/privacidad">Privacidad</a></footer>
<script>gtagFalso('event', 'page_view', {{'page': '{doc.ruta}'}});</script>
</body>
</html>
""".encode()


def eml(doc: Documento) -> bytes:
    """Correo: cabeceras, cuerpo (quizá en latin-1) y, si lo hay, un adjunto."""
    cuerpo: list[str] = []
    adjunto: list[str] = []
    nombre = ""
    for linea in doc.lineas:
        if linea.startswith("@attach "):
            nombre = linea.removeprefix("@attach ").strip()
        else:
            (adjunto if nombre else cuerpo).append(linea)
    opciones = doc.opciones
    juego = opciones.get("charset", "utf-8")
    mensaje = EmailMessage()
    mensaje["From"], mensaje["To"], mensaje["Subject"] = opciones["from_addr"], opciones["to"], doc.titulo
    mensaje["Date"] = parsedate_to_datetime(
        datetime.fromisoformat(opciones["date"]).strftime("%d %b %Y %H:%M:%S %z")
    )
    mensaje["Message-ID"] = f"<{Path(doc.ruta).stem}@voltaria.example>"
    mensaje.set_content("\n".join(cuerpo) + "\n", charset=juego, cte="8bit" if juego != "utf-8" else None)
    if nombre:
        mensaje.add_attachment(("\n".join(adjunto) + "\n").encode(), maintype="text", subtype="plain",
                               filename=nombre, params={"charset": "utf-8"})
        mensaje.set_boundary("=-voltaria-limite-0001")
    return mensaje.as_bytes()


def texto_plano(doc: Documento) -> bytes:
    """Markdown y chats, tal cual."""
    lineas: list[str] = []
    for linea in doc.lineas:
        if doc.ruta.endswith(".md") and lineas and not linea.startswith(("|", "- ")):
            lineas.append("")
        lineas.append(linea)
    return ("\n".join(lineas) + "\n").encode()


def escribe(doc: Documento, destino: Path) -> None:
    """Escribe un documento en destino/ruta según su extensión."""
    fichero = destino / doc.ruta
    fichero.parent.mkdir(parents=True, exist_ok=True)
    if "empty" in doc.opciones:
        datos = b""
    elif "corrupt" in doc.opciones:
        datos = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog /Pages 9 0 R\n"
        datos += bytes(range(256)) * 3
    else:
        extension = fichero.suffix
        funciones = {".pdf": pdf, ".docx": docx, ".pptx": pptx, ".xlsx": xlsx}
        funciones |= {".html": pagina_html, ".eml": eml}
        datos = funciones.get(extension, texto_plano)(doc)
    fichero.write_bytes(datos)
