"""Where a question is lost: of each one that failed, the first stage that let its answer go.

A document is parsed and cleaned, cut into passages, searched, ranked, and given to what answers. The answer of a failed
question is followed through these, and the stage after which it is no longer there is to blame. Plain records in, plain
records out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal

from bucle.core.records import Example, Prediction
from bucle.evaluate.metrics.grounded import groundedness
from bucle.evaluate.metrics.samples import Sample
from bucle.evaluate.metrics.words import normalise, token_f1

__all__ = ["STAGES", "Asked", "Corpus", "Gone", "Home", "Lost", "Passage", "Stage", "diagnose", "homes", "right", "say"]

Stage = Literal["parsing", "chunking", "access", "retrieval", "ranking", "answering"]
STAGES: tuple[Stage, ...] = ("parsing", "chunking", "access", "retrieval", "ranking", "answering")

RIGHT = 0.5
"""Token F1 from which an answer in other words counts as right; one that holds the target's words in order is right."""
NEAR = 0.5
"""Token F1 from which a sentence counts as saying what an answer in other words says."""
FEWEST = 4
"""Words of an answer below which no sentence is near to it by F1: two words are near to anything."""
MOST_NEAR = 200
"""Documents that are searched for an answer in other words, where the row names none."""
_YES_NO = re.compile(r"\s*(?:s[ií]|no|yes)\s*[,.;:]\s*(?=\w)", re.IGNORECASE)


@dataclass(frozen=True)
class Passage:
    """A passage as indexed; `document` is its path."""

    document: str
    text: str
    heading: str = ""


@dataclass(frozen=True)
class Gone:
    """Why a document is not in the corpus. `how` is `quarantined` or `removed`; `kept`: of a duplicate, the path of the
    one that stayed."""

    how: Literal["quarantined", "removed"]
    reason: str
    detail: str = ""
    kept: str = ""


@dataclass(frozen=True)
class Corpus:
    """What the index was made from: path -> text of each document, passages by id in the documents' order, documents
    that were left out, paragraphs that cleaning took out of those that stayed, and the ids that the asker may not
    see."""

    documents: Mapping[str, str]
    passages: Mapping[str, Passage]
    gone: Mapping[str, Gone] = field(default_factory=dict)
    boilerplate: Sequence[str] = ()
    hidden: frozenset[str] = frozenset()

    @cached_property
    def names(self) -> Mapping[str, Sequence[str]]:
        """The ids of each document's passages, in their order."""
        of: dict[str, list[str]] = {}
        for name, passage in self.passages.items():
            of.setdefault(passage.document, []).append(name)
        return of


@dataclass(frozen=True)
class Asked:
    """A question and what became of it. `ranking` are the passages found, best first, what the candidate itself found
    before what a deeper search adds; `used` those that the answer was made from. `told`: whether it is known what was
    found, which of another library's chain it need not be."""

    row: Example
    said: Prediction
    ranking: tuple[str, ...] = ()
    used: tuple[str, ...] = ()
    told: bool = True


@dataclass(frozen=True)
class Home:
    """Where an answer stands: `documents` (paths) and `passages` (ids) that hold it whole. `approximate`: it stands
    nowhere word for word, and what is near to it counts."""

    documents: tuple[str, ...] = ()
    passages: tuple[str, ...] = ()
    approximate: bool = False


@dataclass(frozen=True)
class Lost:
    """A failed question: the row's place, the stage that lost it, a `reason` (a key that `say` puts into words, with
    `detail`), and the best `rank` at which a passage with the answer was found (1 the best; None: not found)."""

    at: int
    stage: Stage
    reason: str
    detail: str = ""
    rank: int | None = None
    approximate: bool = False


_SAYS: Mapping[str, tuple[str, str]] = {
    "quarantined": ("{doc} está en cuarentena ({detail})", "{doc} is in quarantine ({detail})"),
    "removed": ("la limpieza quitó {doc} ({detail})", "cleaning removed {doc} ({detail})"),
    "unread": ("no se leyó ningún documento {detail}", "no document {detail} was read"),
    "boilerplate": ("la limpieza quitó la respuesta de {doc}, por texto repetido",
                    "cleaning took the answer out of {doc}, as boilerplate"),
    "absent": ("{doc} se leyó, y la respuesta no está en él: dicha de otro modo, o no se leyó entero",
               "{doc} was read, and the answer does not stand in it: worded otherwise, or not all was read"),
    "elsewhere": ("{doc} se leyó, y la respuesta no está en él, sino en {detail}",
                  "{doc} was read, and the answer stands not in it, but in {detail}"),
    "nowhere": ("la respuesta no está en ningún documento leído", "the answer stands in no document that was read"),
    "empty": ("{detail} se leyó y no dio ningún fragmento", "{detail} was read and gave no passage"),
    "cut": ("la respuesta está en {detail}, y ningún fragmento la tiene entera",
            "the answer stands in {detail}, and no passage holds it whole"),
    "heading": ("la respuesta está solo en un título de {detail}, y en el texto de ningún fragmento",
                "the answer stands only in a heading of {detail}, and in no passage's text"),
    "hidden": ("quien pregunta no tiene la etiqueta que la muestra", "the asker holds no label that shows it"),
    "unfound": ("un fragmento tiene la respuesta y no se encontró", "a passage holds the answer and was not found"),
    "missed": ("no se encontró ningún fragmento de {doc}", "no passage of {doc} was found"),
    "unused": ("se encontró en el puesto {detail}, y la respuesta se hizo de otros fragmentos",
               "found at rank {detail}, and the answer was made from other passages"),
    "unlisted": ("se encontró en el puesto {detail}, detrás de los documentos que se dan",
                 "found at rank {detail}, below the documents that are given"),
    "abstained": ("tenía el fragmento, y se abstuvo", "it had the passage, and abstained"),
    "wrong": ("tenía el fragmento, y la respuesta es otra", "it had the passage, and the answer is another"),
    "unlookable": ("la respuesta no dice nada que se pueda buscar, y no se nombra documento",
                   "the answer says nothing that can be looked for, and no document is named"),
    "error": ("responder falló: {detail}", "answering failed: {detail}"),
    "invented": ("respondió a lo que los documentos no responden", "it answered what the documents have no answer to"),
}


def say(lost: Lost, row: Example) -> dict[str, str]:
    """Why a question was lost, as a sentence in `es` and `en`."""
    es, en = _SAYS[lost.reason]
    there = {"doc": row.document, "detail": lost.detail}
    return {"es": es.format(**there), "en": en.format(**there)}


def right(row: Example, said: Prediction) -> bool:
    """Whether an answer will do: it holds the target's words in their order, or its token F1 is at least 0.5; where
    there is no answer, whether it abstained."""
    if said.error:
        return False
    if row.target is None or said.abstained:
        return row.target is None and said.abstained
    if not said.output.strip():
        return False
    return _holds(said.output, row.target) or token_f1(said.output, row.target) >= RIGHT


def named(row: Example) -> tuple[str, ...]:
    """The paths of the documents that a row names."""
    return tuple(dict.fromkeys(part for one in row.document.split(";") if (part := one.strip())))


def homes(rows: Sequence[Example], corpus: Corpus, *, documents: bool = False) -> Iterator[Home]:
    """Of each row, where its answer stands; with `documents` (a retrieve task), the documents it names and all their
    passages. A question without an answer has no home.

    Only the documents that a row names are looked at, and what a duplicate of one was kept as; all of them where it
    names none. Words are compared as metrics do (case, accents, articles and punctuation aside). An answer that stands
    nowhere so is looked for in other words: all its numbers, and a sentence with a token F1 of at least 0.5, or
    sentences that bear it out (`groundedness`). One that says nothing to look for (`Yes`) stands in the whole document.
    """
    known: dict[str, str] = {}

    def folded(text: str) -> str:
        return known[text] if text in known else known.setdefault(text, _folded(text))

    for row in rows:
        places = [path for path in (named(row) if documents else _places(row, corpus)) if path in corpus.documents]
        if documents or (row.target is not None and not _lookable(row.target)):
            kept = tuple(places) if named(row) else ()
            yield Home(kept, tuple(n for path in kept for n in corpus.names.get(path, ())), not documents)
        elif row.target is None:
            yield Home()
        else:
            target = _sought(row.target)
            yield (_home(places, corpus, _finder(target, folded)) or _nearly(target, places, corpus, folded)
                   or Home(approximate=True))


def _finder(target: str, folded: Callable[[str], str]) -> Callable[[str], bool]:
    words, signs = _folded(target), target.strip()
    return lambda text: words in folded(text) if words.strip() else signs in text


def _home(places: Sequence[str], corpus: Corpus, holds: Callable[[str], bool]) -> Home | None:
    """The documents and passages that hold the answer word for word."""
    documents = tuple(path for path in places if holds(corpus.documents[path]))
    # one may stand in a passage, which repeats a table's head, and not in the document's own text
    passages = tuple(n for path in documents or places for n in corpus.names.get(path, ())
                     if holds(corpus.passages[n].text))
    return Home(documents or tuple(dict.fromkeys(corpus.passages[n].document for n in passages)), passages
                ) if documents or passages else None


def _nearly(target: str, places: Sequence[str], corpus: Corpus, folded: Callable[[str], str]) -> Home | None:
    """Those that say it in other words."""
    wanted = Counter(normalise(target))
    figures, total = {word for word in wanted if word[0].isdigit()}, wanted.total()

    def near(text: str) -> bool:
        whole = folded(text)
        if not all(f" {figure} " in whole for figure in figures):
            return False
        if groundedness([Sample(output=target, sources=(text,))])[0] == 1.0:
            return True
        return total >= FEWEST and any(
            figures <= said.keys() and 2 * (said & wanted).total() >= NEAR * (said.total() + total)
            for said in _bags(text))

    some = places if len(places) <= MOST_NEAR else [  # all documents: those with its longest word
        path for path in places if f" {max(wanted, key=len, default='')} " in folded(corpus.documents[path])]
    documents = tuple(path for path in some[:MOST_NEAR] if near(corpus.documents[path]))
    passages = tuple(n for path in documents for n in corpus.names.get(path, ()) if near(corpus.passages[n].text))
    return Home(documents, passages, approximate=True) if documents else None


def _places(row: Example, corpus: Corpus) -> list[str]:
    """The documents where a row's answer may stand."""
    own = named(row)
    if not own:
        return list(corpus.documents)
    kept = (corpus.gone[path].kept for path in own if path in corpus.gone and path not in corpus.documents)
    return list(dict.fromkeys([*own, *filter(None, kept)]))


def diagnose(asked: Sequence[Asked], corpus: Corpus, found: Sequence[Home], *, k: int = 0) -> list[Lost]:
    """The stage that lost each failed question, in the rows' order; `found` are its `homes`.

    `parsing`: the answer stands in no document (quarantined, removed by cleaning, never read, or not in what was read
    of it). `chunking`: it stands in a document and no passage holds it whole. `access`: the asker may see none of the
    passages that do. `retrieval`: none of them was found. `ranking`: one was found, and not used. `answering`: it was
    used, or nobody says what was found, and the answer is wrong. With `k` (a retrieve task) a question fails when none
    of its documents is among the first `k`, and `used` is not looked at.
    """
    lost: list[Lost] = []
    for at, (one, home) in enumerate(zip(asked, found, strict=True)):
        if one.row.target is None and not k:
            if not right(one.row, one.said):
                reason, detail = ("error", one.said.error) if one.said.error else ("invented", "")
                lost.append(Lost(at, "answering", reason, detail))
            continue
        rank = next((place for place, name in enumerate(one.ranking, 1) if name in set(home.passages)), None)
        if (one.said.chunks and set(one.said.chunks[:k]) & set(home.passages)) if k else right(one.row, one.said):
            continue
        stage, reason, detail = _stage(one, home, corpus, rank, k)
        lost.append(Lost(at, stage, reason, detail, rank, home.approximate))
    return lost


def _stage(one: Asked, home: Home, corpus: Corpus, rank: int | None, k: int) -> tuple[Stage, str, str]:
    seen = [name for name in home.passages if name not in corpus.hidden]
    if home.passages and not seen:
        return "access", "hidden", ""
    if not home.passages:
        if _all_hidden(home.documents or named(one.row), corpus):
            return "access", "hidden", ""
        if home.documents:
            return ("chunking", *_uncut(one.row, home, corpus))
        if one.row.target and not k and not named(one.row) and not _lookable(one.row.target):
            return "answering", "unlookable", ""
        return ("parsing", *_unread(one.row, corpus))
    if rank is None and one.told:
        return "retrieval", "missed" if k else "unfound", ""
    if k:
        return "ranking", "unlisted", str(rank)
    if one.told and not set(one.used) & set(seen):
        return "ranking", "unused", str(rank)
    if one.said.error:
        return "answering", "error", one.said.error
    return "answering", "abstained" if one.said.abstained else "wrong", ""


def _all_hidden(paths: Sequence[str], corpus: Corpus) -> bool:
    names = [name for path in paths for name in corpus.names.get(path, ())]
    return bool(names) and corpus.hidden.issuperset(names)


def _uncut(row: Example, home: Home, corpus: Corpus) -> tuple[str, str]:
    """Why a document that holds the answer has no passage that does."""
    own = [corpus.passages[name] for path in home.documents for name in corpus.names.get(path, ())]
    if not own:
        return "empty", home.documents[0]
    if row.target and any(_holds(p.heading, row.target) for p in own):
        return "heading", home.documents[0]
    return "cut", home.documents[0]


def _unread(row: Example, corpus: Corpus) -> tuple[str, str]:
    """Why no document holds the answer."""
    own = named(row)
    if not own:
        return "nowhere", ""
    for path in own:
        if path in corpus.documents:
            continue
        if (gone := corpus.gone.get(path)) is None:
            return "unread", path
        said = ": ".join(filter(None, (gone.reason, gone.detail)))
        return gone.how, said + (f"; {gone.kept} stayed" if gone.kept and gone.kept not in said else "")
    if row.target and any(_holds(text, row.target) for text in corpus.boilerplate):
        return "boilerplate", ""
    other = next((path for path, text in corpus.documents.items() if row.target and path not in own
                  and _lookable(row.target) and _holds(text, row.target)), "")
    return ("elsewhere", other) if other else ("absent", "")


def _holds(text: str, target: str) -> bool:
    """Whether the target's words stand in `text` in their order; of a target without words, its characters."""
    words = _folded(target)
    return words in _folded(text) if words.strip() else bool(target.strip()) and target.strip() in text


def _folded(text: str) -> str:
    return f" {' '.join(normalise(text))} "


@lru_cache(maxsize=20_000)
def _bags(text: str) -> tuple[Counter[str], ...]:
    """The words of each sentence."""
    from bucle.data.sentences import sentences

    return tuple(Counter(normalise(one)) for one in sentences(text))


def _sought(target: str) -> str:
    """What of an answer stands in a document: `Sí, de 9 a 14` without its yes."""
    rest = _YES_NO.sub("", target, count=1) if _YES_NO.match(target) else target
    return rest if _lookable(rest) else target


def _lookable(target: str) -> bool:
    """Whether the answer says anything that can be looked for: `Sí` and `No` stand everywhere."""
    words = normalise(target)
    return any(word not in _stop_words() for word in words) if words else bool(target.strip())


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from bucle.data.topics import STOP_WORDS

    return frozenset(word for stop in STOP_WORDS for word in normalise(stop)) | {"si", "no", "yes"}
