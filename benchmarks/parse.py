"""Parsing a mixed folder, beside MarkItDown: `python benchmarks/parse.py [--quick] [--json] --markitdown PYTHON`.

PYTHON is the interpreter of an environment with MarkItDown (`python -m venv V && V/bin/pip install 'markitdown[all]'`);
it is kept out of Bucle's own because it pins other versions. Without one, ours alone is measured and the peer is null.

The folder holds the sample project's documents several times, each copy with other bytes so that no cache helps, and
the real messy files where they are (../shared/data/messy). Each tool is a process of its own, timed from its start:
MarkItDown in one process; Bucle through `parse_all`, with start-up of its workers, with 2 workers and with 1.

Text recovered, by file, two ways: the share of the union of both tools' words (which counts `NaN`, link targets and raw
MIME as words), and the share of the words a third reader finds (`reference`): the XML's own text, pypdf, the body of
a message, a page without scripts and menus. A page's menus are no text of its own: Bucle leaves them out on purpose.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median
from typing import Any

from shared import ROOT, measured, report

SAMPLES = ROOT / "examples" / "soporte" / "docs"
MESSY = ROOT.parent / "shared" / "data" / "messy"
OURS = """
import json, sys
from pathlib import Path
from bucle.data.connect import list_files
from bucle.data.parse import parse_all
home = Path(sys.argv[1])
result = parse_all(list_files(home), home, workers=int(sys.argv[3]))
Path(sys.argv[2]).write_text(json.dumps({d.path: d.text for d in result.documents}))
"""
PEER = """
import json, sys
from pathlib import Path
from markitdown import MarkItDown
reader, home, texts = MarkItDown(), Path(sys.argv[1]), {}
for path in sorted(p for p in home.rglob("*") if p.is_file()):
    try:
        texts[path.relative_to(home).as_posix()] = reader.convert(str(path)).text_content
    except Exception:
        pass
Path(sys.argv[2]).write_text(json.dumps(texts))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one copy of each document, one round")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--markitdown", metavar="PYTHON", help="the interpreter that has MarkItDown")
    options = parser.parse_args()
    peer = options.markitdown or (sys.executable if importlib.util.find_spec("markitdown") else None)
    with tempfile.TemporaryDirectory() as folder:
        home, out = Path(folder) / "docs", Path(folder) / "out.json"
        files = fill(home, copies=1 if options.quick else 4)
        texts: dict[str, dict[str, str]] = {}
        seconds: dict[str, list[float]] = defaultdict(list)
        commands = {
            "bucle, 2 workers": [sys.executable, "-c", OURS, str(home), str(out), "2"],
            "bucle, 1 worker": [sys.executable, "-c", OURS, str(home), str(out), "1"],
            **({"markitdown, 1 process": [peer, "-c", PEER, str(home), str(out)]} if peer else {}),
        }
        for _ in range(1 if options.quick else 3):
            for name, command in commands.items():  # in turns, so that a busy moment falls on each
                seconds[name].append(measured(command)["seconds"])
                texts[name] = json.loads(out.read_text())
        rates = {name: len(files) / median(took) for name, took in seconds.items()}
        shares = recovered(home, files, texts["bucle, 2 workers"], texts.get("markitdown, 1 process"))
    ours, theirs = rates["bucle, 2 workers"], rates.get("markitdown, 1 process")
    version = (
        peer
        and subprocess.run(
            [peer, "-c", "import importlib.metadata as m; print(m.version('markitdown'))"],
            capture_output=True,
            text=True,
        ).stdout.strip()
    )
    if not options.json:
        show(rates, shares, len(files))
        if peer is None:
            print("MarkItDown is not here: see --help for how to install it in an environment of its own.")
        return
    report(
        "parse",
        ours=round(ours, 1),
        peer=theirs and round(theirs, 1),
        ratio=theirs and round(ours / theirs, 2),
        ratio_one_worker=theirs and round(rates["bucle, 1 worker"] / theirs, 2),
        peer_note=f"MarkItDown {version}, one process" if peer else "MarkItDown is not installed: see --help",
        target="documents/s at least 3 times MarkItDown's, no less text recovered",
        unit="documents/s, whole process, 2 workers",
        packages=["pypdfium2", "python-docx", "python-pptx", "openpyxl", "trafilatura"],
        documents=len(files),
        messy=MESSY.is_dir(),
        documents_per_second={name: round(rate, 1) for name, rate in rates.items()},
        recovered=shares["all"],
        recovered_by_format={name: share for name, share in shares.items() if name != "all"},
    )


def fill(home: Path, copies: int) -> list[str]:
    """Fill `home` with the documents, and return their paths."""
    for copy in range(copies):
        for path in sorted(one for one in SAMPLES.rglob("*") if one.is_file()):
            place = home / str(copy) / path.relative_to(SAMPLES)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(distinct(path, copy))
    if MESSY.is_dir():
        (home / "messy").mkdir()
        for path in sorted(MESSY.iterdir()):
            (home / "messy" / path.name).write_bytes(path.read_bytes())
    return sorted(one.relative_to(home).as_posix() for one in home.rglob("*") if one.is_file())


def distinct(path: Path, copy: int) -> bytes:
    """The file with other bytes and the same text but for a word."""
    data = path.read_bytes()
    if not copy or not data:
        return data
    if path.suffix in (".docx", ".pptx", ".xlsx"):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / path.name
            place.write_bytes(data)
            with zipfile.ZipFile(place, "a") as archive:
                archive.comment = b"copy %d" % copy
            return place.read_bytes()
    if path.suffix == ".pdf":
        return data + b"\n%% copy %d\n" % copy
    return data + (b"\n<!-- copy %d -->\n" if path.suffix == ".html" else b"\n\ncopia %d\n") % copy


def recovered(
    home: Path, files: list[str], ours: dict[str, str], theirs: dict[str, str] | None
) -> dict[str, dict[str, Any]]:
    """Mean share, over the files, of the union's and the reference's words that each tool has; by suffix and in all."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in files:
        if name.split("/")[0] not in ("0", "messy"):
            continue  # the copies say the same
        mine, other = words(ours.get(name, "")), words((theirs or {}).get(name, ""))
        wanted, union = words(reference(home / name)), mine | other
        for group in ("all", Path(name).suffix):
            for what, of in (("union", union), ("reference", wanted)):
                if of.total():
                    found[group][f"bucle_{what}"].append((mine & of).total() / of.total())
                    if theirs is not None:
                        found[group][f"markitdown_{what}"].append((other & of).total() / of.total())
            found[group]["files"].append(1)
    return {
        group: {what: len(got) if what == "files" else round(mean(got), 4) for what, got in sorted(one.items())}
        for group, one in sorted(found.items())
    }


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def reference(path: Path) -> str:
    """What a third reader finds in the file; empty where it finds nothing (encrypted, damaged, scanned)."""
    from lxml import html

    def readable(data: bytes | str) -> str:
        tree = html.fromstring(data if isinstance(data, bytes) else data.encode())
        for away in tree.xpath("//script|//style|//nav|//head|//body/header|//body/footer|//noscript|//comment()"):
            away.drop_tree() if away.getparent() is not None else None
        return " ".join(tree.itertext())

    try:
        if path.suffix in (".docx", ".pptx", ".xlsx"):
            with zipfile.ZipFile(path) as archive:
                wanted = [n for n in archive.namelist() if re.search(_PARTS[path.suffix], n)]
                tree = [archive.read(name).decode() for name in wanted]
            paragraphs = re.split(r"</(?:w:p|a:p|si)>", "\n".join(tree))
            return "\n".join("".join(re.findall(r"<(?:w:|a:)?t(?: [^>]*)?>([^<]*)<", p)) for p in paragraphs)
        if path.suffix == ".epub":
            with zipfile.ZipFile(path) as archive:
                return "\n".join(readable(archive.read(n)) for n in archive.namelist() if n.endswith("html"))
        if path.suffix == ".html":
            return readable(path.read_bytes())
        if path.suffix == ".eml":
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            body = message.get_body(("plain", "html"))
            return str(body.get_payload(decode=True).decode(body.get_content_charset() or "utf-8", "replace"))
        if path.suffix == ".pdf":
            from pypdf import PdfReader

            return "\n".join(page.extract_text() for page in PdfReader(path).pages)
        text = path.read_text(encoding="utf-8")
        return re.sub(_STAMP, "", text, flags=re.MULTILINE)
    except Exception:
        return ""


_PARTS = {
    ".docx": r"word/document\.xml$",
    ".pptx": r"ppt/(slides|notesSlides)/[^/]+\.xml$",
    ".xlsx": r"xl/sharedStrings\.xml$",
}
_STAMP = r"^\W*\d{1,2}/\d{1,2}/\d{2,4}, \d{1,2}:\d{2}(:\d{2})?\W+"


def show(rates: dict[str, float], shares: dict[str, dict[str, Any]], files: int) -> None:
    print(f"{files} documents")
    peer = rates.get("markitdown, 1 process")
    for name, rate in rates.items():
        print(f"  {name:24} {rate:7.1f} documents/s" + (f"   {rate / peer:5.2f} x MarkItDown" if peer else ""))
    print(f"{'recovered':10} {'files':>5}   union: bucle  markitdown   reference: bucle  markitdown")
    for group, one in shares.items():
        print(
            f"{group:10} {one['files']:5d} {one.get('bucle_union', 0):14.3f} {one.get('markitdown_union', 0):11.3f} "
            f"{one.get('bucle_reference', 0):18.3f} {one.get('markitdown_reference', 0):11.3f}"
        )


if __name__ == "__main__":
    main()
