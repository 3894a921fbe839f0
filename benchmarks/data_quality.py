"""Does each cleaner find what was planted, and leave the rest alone? `python benchmarks/data_quality.py [--json]`.

Recall on planted cases and false positives on cases that only look like them, each with its 95% interval (Wilson),
seeded. Personal data are written from the official formats (planted.py); texts are real ones from ../shared/data where
it is there (XQuAD, Spanish intents), else the sample project's. Exits with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import planted

from bucle.core.config import Quality, Rows
from bucle.core.records import Block, Document, Example
from bucle.data.clean import CleanPolicy, clean_documents
from bucle.data.clean_rows import RowCleaner
from bucle.data.language import detect, detect_all, is_other
from bucle.data.personal import apply, find
from bucle.data.similar import exact_duplicates, near_duplicates
from bucle.data.split import split
from bucle.data.suspects import suspect_labels
from bucle.evaluate.statistics import interval

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
SEED = 7
RECALL, FALSE = 0.95, 0.02
_FILLER = re.findall(
    r"\w+", "el cliente pide cambiar la fecha de su cita porque ese día no estará en casa y la factura llegó tarde"
)


@dataclass(frozen=True)
class Line:
    """One cleaner on one planted set: shares of planted cases found and of others taken, with low and high bounds."""

    cleaner: str
    what: str
    recall: tuple[float, float, float] | None
    planted: int
    false: tuple[float, float, float] | None
    others: int
    target: str = ""

    @property
    def missed(self) -> bool:
        wanted = {"checksum": (RECALL, FALSE), "labels": (0.5, 1.0)}.get(self.target)
        if wanted is None:
            return False
        return bool((self.recall and self.recall[0] < wanted[0]) or (self.false and self.false[0] > wanted[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the planted cases")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--seed", type=int, default=SEED)
    given = parser.parse_args()
    count, draw = (400 if given.quick else 2000), Random(given.seed)
    began = time.perf_counter()
    lines = [
        line
        for made in (personal, secrets, real_text, duplicates, boilerplate, quality, rows, labels, leakage, languages)
        for line in made(draw, count)
    ]
    seconds = round(time.perf_counter() - began, 1)
    absent = [] if SHARED.is_dir() else [f"{SHARED} is absent: the texts are the sample project's"]
    if given.json:
        about = {"name": "data_quality", "seed": given.seed, "seconds": seconds, "python": platform.python_version()}
        print(json.dumps(about | {"notes": absent, "lines": [asdict(one) | {"missed": one.missed} for one in lines]}))
    else:
        print(f"{'cleaner':16}{'what':34}{'recall (95%)':>24}{'of':>7}{'false positives (95%)':>26}{'of':>7}")
        for one in lines:
            mark = " MISSED" if one.missed else (" *" if one.target else "")
            left, right = _shown(one.recall), _shown(one.false)
            print(f"{one.cleaner:16}{one.what:34}{left:>24}{one.planted:>7}{right:>26}{one.others:>7}{mark}")
        print(f"* has a target: checksummed kinds {RECALL} at {FALSE}, half of the wrong labels.")
        print(f"{seconds} s, seed {given.seed}")
        print("\n".join(absent))
    sys.exit(any(one.missed for one in lines))


def _shown(share: tuple[float, float, float] | None) -> str:
    return "" if share is None else f"{share[0]:.4f} ({share[1]:.4f}-{share[2]:.4f})"


def _share(hits: Iterable[bool]) -> tuple[float, float, float] | None:
    scores = [float(hit) for hit in hits]
    if not scores:
        return None
    found = interval(scores)
    return round(found.value, 4), round(found.low, 4), round(found.high, 4)


def _line(cleaner: str, what: str, hits: Sequence[bool], wrong: Sequence[bool], target: str = "") -> Line:
    return Line(cleaner, what, _share(hits), len(hits), _share(wrong), len(wrong), target)


# what is planted ------------------------------------------------------------------------------------------------


def personal(draw: Random, count: int) -> Iterator[Line]:
    """Each kind whole, in a sentence; against wrong check digits and numbers that are nobody's."""
    nobodys = [planted.harmless(draw) for _ in range(count)]
    for kind, make in planted.MAKERS.items():
        hits = []
        for _ in range(count):
            value = make(draw)
            text = draw.choice(planted.FRAMES[kind]).format(value)
            hits.append([one.text for one in find(text) if one.kind == kind] == [value])
        wrong = [any(one.kind == kind for one in find(text)) for text in nobodys]
        if kind in planted.CHECKED:
            for _ in range(count):
                value = planted.MAKERS[kind](draw, right=False)
                wrong.append(bool(find(draw.choice(planted.FRAMES[kind]).format(value))))
        yield _line("personal data", kind, hits, wrong, "checksum" if kind in planted.CHECKED else "")
    every = [bool(find(text)) for text in nobodys]
    yield _line("personal data", "any kind, on look-alikes", [], every)


def secrets(draw: Random, count: int) -> Iterator[Line]:
    gone = []
    for _ in range(count):
        text, value = planted.secret(draw)
        gone.append(value not in apply(text, {})[0])
    wrong = [any(one.kind == "secret" for one in find(text)) for text in planted.NO_SECRETS]
    yield _line("secrets", "39 forms", gone, wrong)


def real_text(draw: Random, count: int) -> Iterator[Line]:
    """Text that nobody wrote to have personal data in it."""
    texts = [*_paragraphs("es"), *_paragraphs("en"), *_questions("es"), *[one.input for one in _intents("eval")]]
    yield _line("personal data", "any kind, on real text", [], [bool(find(text)) for text in texts])


def duplicates(draw: Random, count: int) -> Iterator[Line]:
    texts = list(dict.fromkeys([*_paragraphs("es"), *_paragraphs("en")]))
    copies = [_shout(text) for text in texts[::2]]
    groups = exact_duplicates([*texts, *copies])
    partner = {index: set(group) for group in groups for index in group}
    hits = [2 * at in partner.get(len(texts) + at, ()) for at in range(len(copies))]
    wrong = [at in partner for at in range(1, len(texts), 2)]
    yield _line("duplicates", "exact, but case and marks", hits, wrong)
    edited = [_edited(text, draw, 0.02) for text in texts[::2]]
    partner = {index: set(group) for group in near_duplicates([*texts, *edited]) for index in group}
    hits = [2 * at in partner.get(len(texts) + at, ()) for at in range(len(edited))]
    wrong = [at in partner for at in range(1, len(texts), 2)]
    yield _line("duplicates", "near, one word in 50 changed", hits, wrong)


def boilerplate(draw: Random, count: int) -> Iterator[Line]:
    """A cookie banner, a legal footer and a signature over documents; a letterhead and page numbers over a PDF."""
    own = _paragraphs("es")
    repeated = [
        "Usamos cookies propias y de terceros para mejorar la web. Puede aceptarlas, rechazarlas o configurarlas.",
        "Este mensaje es confidencial y va dirigido solo a su destinatario. Si lo ha recibido por error, bórrelo.",
        "Acme Servicios S.L. Inscrita en el Registro Mercantil de Madrid, tomo 1234, folio 56, hoja M-78901.",
    ]
    documents = []
    for at in range(0, len(own) - 1, 2):
        chosen = [text for text in repeated if draw.random() < 0.8]
        body = [*own[at : at + 2], *chosen]
        documents.append(_document(f"web/{at}.html", [Block(text=f"Tema {at}", kind="heading"), *map(_text, body)]))
    cleaned = clean_documents(documents)
    kept = {document.path: {block.text for block in document.blocks} for document in cleaned.documents}
    hits = [text not in kept.get(d.path, ()) for d in documents for text in repeated if text in d.text]
    wrong = [b.text not in kept.get(d.path, ()) for d in documents for b in d.blocks if b.text not in repeated]
    yield _line("boilerplate", "over documents", hits, wrong)
    pages, marks = [], []
    for page, text in enumerate(own[:40], 1):
        marks += [f"Página {page} de 40"]
        pages += [Block(text=one, place=f"page {page}") for one in ("ACME SERVICIOS · Manual", text, marks[-1])]
    left = {block.text for block in clean_documents([_document("manual.pdf", pages)]).documents[0].blocks}
    hits = [text not in left for text in ("ACME SERVICIOS · Manual", *marks)]
    yield _line("boilerplate", "over the pages of a PDF", hits, [text not in left for text in own[:40]])


def quality(draw: Random, count: int) -> Iterator[Line]:
    """Documents that break one threshold each; against real paragraphs, price lists and tables of numbers."""
    size = max(20, count // 20)
    noise = "".join(map(chr, range(0x2500, 0x2580)))
    junk = {
        "min_words": lambda: draw.choice(["Sí", "ok gracias", "página", "1"]),
        "min_letters": lambda: "\n".join("." * draw.randint(20, 60) + " " + draw.choice(_FILLER) for _ in range(20)),
        "max_symbols": lambda: " ".join(planted.letters(draw, 4, noise) + draw.choice(_FILLER) for _ in range(60)),
        "max_repeated_lines": lambda: "\n".join([" ".join(draw.sample(_FILLER, 9))] * 30),
        "max_repeated_ngrams": lambda: " ".join(draw.sample(_FILLER, 8) * 30),
        "max_word_length": lambda: " ".join(planted.letters(draw, 76) for _ in range(12)),
    }
    removed = {}
    for name, make in junk.items():
        made = [_document(f"{name}{at}", [_text(make())]) for at in range(size)]
        cleaned = clean_documents(made, CleanPolicy(near_duplicate=1.0, boilerplate=1.0))
        gone = {one.path: one.reason for one in cleaned.removed}
        removed[name] = [document.path in gone for document in made]
    good = [*_paragraphs("es"), *_paragraphs("en"), *[_prices(draw) for _ in range(size)]]
    lists = [_document(f"bien{at}", [_text(text)]) for at, text in enumerate(good)]
    lists += [_document(f"tabla{at}", [Block(text=_table(draw), kind="table")]) for at in range(size)]
    names = set(Quality.model_fields)
    cleaned = clean_documents(lists, CleanPolicy(near_duplicate=1.0, boilerplate=1.0))
    gone = {one.path for one in cleaned.removed if one.reason in names}
    for name, hits in removed.items():
        yield _line("quality", name, hits, [])
    yield _line("quality", "text, price lists, tables", [], [document.path in gone for document in lists])


def rows(draw: Random, count: int) -> Iterator[Line]:
    """Duplicates and personal data among streamed rows, and how long a row takes."""
    texts = [" ".join(draw.choice(_FILLER) for _ in range(8)) + f" {at}" for at in range(count)]
    made = [
        Example(id=f"r{at}", input=text, target=draw.choice("ab"), source=f"x:{at}") for at, text in enumerate(texts)
    ]
    copies = [one.model_copy(update={"id": f"c{one.id}", "input": one.input.upper()}) for one in made[::10]]
    cleaner = RowCleaner(Rows(duplicates="exact"))
    out = list(cleaner.clean([*made, *copies]))
    yield _line(
        "rows",
        "exact duplicates, streamed",
        [not isinstance(one, Example) for one in out[len(made) :]],
        [not isinstance(one, Example) for one in out[: len(made)]],
    )


def labels(draw: Random, count: int) -> Iterator[Line]:
    """5% of the labels planted wrong: how many stand among the 10% most suspect."""
    for name, examples in (("intents-es", _intents("train")), ("examples/soporte", _messages())):
        if not examples:
            continue
        known = sorted({str(one.target) for one in examples})
        wrong = set(draw.sample(range(len(examples)), len(examples) // 20))
        spoiled = [
            one.model_copy(update={"target": draw.choice([label for label in known if label != one.target])})
            if at in wrong
            else one
            for at, one in enumerate(examples)
        ]
        near = near_duplicates([one.input for one in spoiled])
        suspects = {one.id for one in suspect_labels(spoiled, near, top=len(spoiled) // 10, least=0.0)}
        hits = [examples[at].id in suspects for at in sorted(wrong)]
        yield _line("wrong labels", f"{name}, top 10%", hits, [], "labels")


def leakage(draw: Random, count: int) -> Iterator[Line]:
    """Copies planted across a given split are seen; and Bucle's own split puts none across."""
    base = _intents("train") or _messages()
    base = [one for one in base if len(one.input) > 30][:1500]
    test, train = base[: len(base) // 5], base[len(base) // 5 :]
    pairs = draw.sample(range(len(test)), len(test) // 4)
    copies = [
        test[at].model_copy(update={"id": f"leak{at}", "input": _typo(test[at].input, draw)}) for at in sorted(pairs)
    ]
    every = [*test, *train, *copies]
    side = ["test"] * len(test) + ["train"] * (len(train) + len(copies))
    across = [
        {*group} for group in near_duplicates([one.input for one in every]) if len({side[at] for at in group}) > 1
    ]
    leaked = set().union(*across) if across else set()
    hits = [at in leaked for at in sorted(pairs)]
    yield _line("leakage", "copies across a given split", hits, [])
    made = split(every, seed=SEED)
    sides = made.sides
    together = [sides.get(test[at].id) == sides.get(f"leak{at}") for at in sorted(pairs)]
    yield _line("leakage", "copies on one side of our split", together, [])


def languages(draw: Random, count: int) -> Iterator[Line]:
    for code in ("es", "en"):
        texts = _paragraphs(code) if SHARED.is_dir() else []
        yield _line("language", f"XQuAD paragraphs, {code}", [detect(text) == code for text in texts], [])
        questions = _questions(code)
        hits = [found == code for found in detect_all(questions)]
        yield _line("language", f"XQuAD questions, {code}", hits, [])
    spanish = [one.input for one in _intents("eval")]
    yield _line("language", "intents-es", [found == "es" for found in detect_all(spanish)], [])
    foreign = [bool(is_other(text, ("es",))) for text in _questions("en")]
    yield _line("language", "rows not in es", foreign, [bool(is_other(text, ("es",))) for text in spanish])


# texts -----------------------------------------------------------------------------------------------------------


def _xquad(code: str) -> list[dict[str, object]]:
    path = SHARED / "xquad" / f"xquad.{code}.json"
    if not path.is_file():
        return []
    return [one for article in json.loads(path.read_text("utf-8"))["data"] for one in article["paragraphs"]]


def _paragraphs(code: str) -> list[str]:
    """Distinct paragraphs of a few sentences."""
    if found := [str(one["context"]) for one in _xquad(code)]:
        return found
    notes = sorted((ROOT / "examples" / "soporte" / "docs" / "notas").glob("*.md"))
    pieces = [piece for note in notes for piece in note.read_text("utf-8").split("\n\n")]
    return [piece for piece in dict.fromkeys(pieces) if len(piece.split()) > 15]


def _questions(code: str) -> list[str]:
    return [str(qa["question"]) for one in _xquad(code) for qa in one["qas"]]  # type: ignore[attr-defined]


def _intents(name: str) -> list[Example]:
    from bucle.data.tables import read_examples

    path = SHARED / "intents-es" / f"{name}.tsv"
    return [one for one in read_examples(path, "classify")[0] if one.target] if path.is_file() else []


def _messages() -> list[Example]:
    path = ROOT / "examples" / "soporte" / "data" / "mensajes.tsv"
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    return [Example(id=one["id"], input=one["texto"], target=one["intencion"]) for one in lines]


def _document(path: str, blocks: Sequence[Block]) -> Document:
    return Document(
        id=f"document:{path}",
        path=path,
        sha256="",
        media_type="text/html",
        title="",
        language="es",
        blocks=tuple(blocks),
    )


def _text(text: str) -> Block:
    return Block(text=text)


def _shout(text: str) -> str:
    return text.upper().replace(",", " ;").replace(".", "...")


def _edited(text: str, draw: Random, share: float) -> str:
    words = text.split(" ")
    for at in draw.sample(range(len(words)), max(1, int(share * len(words)))):
        words[at] = draw.choice(_FILLER)
    return " ".join(words)


def _typo(text: str, draw: Random) -> str:
    """A mark or a capital changed: what is pasted again."""
    return draw.choice([text.upper(), text + "!!", text.replace(" ", "  "), "¡" + text.capitalize() + "."])


def _prices(draw: Random) -> str:
    names = "Luz Gas Fibra Móvil Dúo Noche Empresa Familia Joven Plus Pro Total"
    return "\n".join(
        f"Tarifa {name} {draw.randint(1, 9)}00 Mb: {draw.randint(10, 90)},{draw.randint(10, 99)} € al mes IVA incluido"
        for name in re.findall(r"\w+", names)
    )


def _table(draw: Random) -> str:
    lines = ["| Mes | kWh | € |", "| --- | --- | --- |"]
    return "\n".join(
        lines + [f"| {at} | {draw.randint(100, 999)},{at} | {draw.randint(10, 99)},00 |" for at in range(1, 40)]
    )


if __name__ == "__main__":
    main()
