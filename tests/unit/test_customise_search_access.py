"""A user without the label: no passage, title, count or cached answer, whatever stands between question and index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_peer import remote

from bucle.core.errors import ModelUnavailable
from bucle.core.ports import FitContext, LoadContext, Technique
from bucle.core.records import Chunk, Example, Prediction, TaskKind
from bucle.customise.retrieve import HybridSearch, Quote, Rag, RagThought, Retrieve, RewrittenSearch, build_index
from bucle.customise.retrieve.rag import ClosedBook
from bucle.models.ask import remembered

pytestmark = pytest.mark.torch

SECRET = "El bono secreto de la dirección es de 9999 euros y se llama ZAFIRO."
TITLE = "Nómina confidencial"
PAGES = {
    "tarifas.md": ("La tarifa nocturna cuesta 20 euros al mes. Se contrata en la tienda.", ()),
    "bonos.md": ("El bono de bienvenida es de 30 euros. Se pide por teléfono.", ()),
    "secreto.md": (SECRET, ("direccion",)),
    "bajas.md": ("La baja se pide con 15 días de antelación.", ()),
}
QUESTION = "¿De cuánto es el bono secreto ZAFIRO de la dirección?"
ROWS = [
    Example(id="1", input="¿Cuánto cuesta la tarifa nocturna?", target="20 euros al mes", document="tarifas.md"),
    Example(id="2", input="¿De cuánto es el bono de bienvenida?", target="30 euros", document="bonos.md"),
]
BOSS = frozenset({"direccion"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from bucle.models.encoder import encoder_folder

    out = tmp_path_factory.mktemp("index")
    chunks = [Chunk(id=f"chunk:{path}", document_id=path, path=path, text=text, language="es", access=access,
                    heading=TITLE if access else "") for path, (text, access) in PAGES.items()]
    build_index(chunks, out, encoder=encoder_folder(), language="es", report=lambda done, total, note="": None)
    return {"index": out, "encoder": encoder_folder()}


class Overlap:
    """A reranker by shared words, which keeps all that it was shown."""

    name = "overlap"

    def __init__(self, error: Exception | None = None) -> None:
        self.shown: list[str] = []
        self.error = error

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        self.shown += texts
        if self.error is not None:
            raise self.error
        return [float(len(set(question.lower().split()) & set(text.lower().split()))) for text in texts]


def opened(technique: Technique, out: Path, folders: dict[str, Path], kind: TaskKind, *, later: Any = None,
           **given: Any) -> Any:
    out.mkdir(exist_ok=True)
    params = given.pop("params", {})
    technique.fit(FitContext(out=out, work=out, train=ROWS, validation=(), labels=(), params=params, seed=7, kind=kind,
                             report=lambda done, total, note="": None, **folders, **given))
    return technique.load(out, LoadContext(labels=(), params=params, seed=7, kind=kind, **folders, **given,
                                           extra={"labels": later} if later else {}))


def hidden(said: Prediction, *more: object) -> bool:
    """Whether nothing of the hidden passage is in a prediction or anything that was sent anywhere."""
    seen = said.model_dump_json() + "".join(map(str, more))
    return not any(word in seen for word in ("9999 euros", "secreto.md", TITLE, "ZAFIRO."))


def echo(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
    """Writes queries, or the first passage it is shown, with its marker."""
    if "[1]" not in messages[-1]["content"]:
        return "bono secreto\nbono de la dirección"
    first = messages[-1]["content"].split("\n\n")[0].removeprefix("[1] ")
    return f"RESPUESTA: {first} [1]" if "RESPUESTA:" in messages[0]["content"] else f"{first} [1][2][8]"


CASES: dict[str, tuple[Callable[[], Technique], TaskKind, dict[str, Any], bool]] = {
    "quote": (Quote, "answer", {}, False),
    "retrieve": (Retrieve, "answer", {"queries": "multi", "rerank": True}, True),
    "hybrid-search": (HybridSearch, "retrieve", {"queries": "rewrite", "rerank": True, "k": 2}, True),
    "rewritten-search": (RewrittenSearch, "retrieve", {"rerank": True}, True),
    "rag": (Rag, "answer", {"queries": "rewrite", "rerank": True, "markers": "keep"}, True),
    "chain-of-thought-answer": (RagThought, "answer", {"queries": "multi", "rerank": True, "samples": 2}, True),
}


@pytest.mark.parametrize("name", CASES)
def test_without_the_label_nothing_of_a_passage_is_seen(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    make, kind, params, asks = CASES[name]
    reranker = Overlap()
    with remote(echo) as (chat, peer), remembered(tmp_path / "replies.db"):
        given: dict[str, Any] = {"params": params} | ({"chat": chat, "reranker": reranker} if asks else {})
        predictor = opened(make(), tmp_path / "fit", folders, kind, **given)
        full = predictor.predict([QUESTION], access=BOSS)[0]
        assert not hidden(full, peer.asked, reranker.shown), "who holds the label finds it"
        assert not asks or any("9999" in text for text in reranker.shown)
        peer.asked.clear()
        reranker.shown.clear()
        for access in (frozenset(), frozenset({"otra"})):
            said = predictor.predict([QUESTION, QUESTION], access=access)
            assert all(hidden(one, peer.asked, reranker.shown) for one in said)
        assert not asks or reranker.shown, "the others were reranked"
        assert predictor.index.count(frozenset()) == 3
        again = predictor.predict([QUESTION], access=BOSS)[0]
        assert (again.output, again.citations) == (full.output, full.citations)


@pytest.mark.parametrize(("technique", "kind"),
                         [(Quote(), "answer"), (Retrieve(), "answer"), (HybridSearch(), "retrieve")])
def test_a_label_given_since_the_index_holds(technique: Technique, kind: TaskKind, folders: dict[str, Path],
                                             tmp_path: Path) -> None:
    predictor = opened(technique, tmp_path, folders, kind, later={"bonos.md": ("rrhh",)})
    assert "bonos.md" not in predictor.predict([ROWS[1].input])[0].model_dump_json()
    assert "bonos.md" in predictor.predict([ROWS[1].input], access=frozenset({"rrhh"}))[0].model_dump_json()


def test_answers_cite_what_they_say_and_traces_say_what_happened(folders: dict[str, Path], tmp_path: Path) -> None:
    with remote(echo) as (chat, _):
        rag = opened(Rag(), tmp_path / "a", folders, "answer", chat=chat, reranker=Overlap(),
                     params={"queries": "multi", "passages": 2})
        found = rag.predict([ROWS[0].input])[0]
    assert found.output == PAGES["tarifas.md"][0], "markers are taken out"
    assert found.citations[0] == "chunk:tarifas.md"
    assert found.quotes[0] in PAGES["tarifas.md"][0]
    assert len(found.citations) == len(found.quotes) == 1, "the other passage says nothing of the kind"
    spans = {span["name"]: span for span in found.spans}
    assert spans["passages"]["shown"] == list(found.chunks[:2])
    assert spans["citations"]["unsupported"] == 1
    assert spans["queries"]["queries"] == [ROWS[0].input, "bono secreto", "bono de la dirección"]
    assert (spans["rerank"]["passages"], spans["citations"]["dropped"]) == (3, 1)
    for number, unsupported in ((9, 0), (1, 1)):
        invented = f"Los caballos galopan libres [{number}]"
        with remote(lambda messages, body, invented=invented: invented) as (chat, _):
            rag = opened(Rag(), tmp_path / f"b{number}", folders, "answer", chat=chat)
            withheld = rag.predict([ROWS[0].input])[0]
        assert (withheld.output, withheld.abstained, withheld.citations, withheld.error) == ("", True, (), "")
        assert (withheld.spans[-1]["withheld"], withheld.spans[-1]["unsupported"]) == (invented, unsupported)


def test_a_reranker_that_fails_leaves_the_order_and_says_so(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = opened(HybridSearch(), tmp_path / "a", folders, "retrieve")
    down = opened(HybridSearch(), tmp_path / "b", folders, "retrieve", reranker=Overlap(ModelUnavailable("is down")))
    one, other = plain.predict([ROWS[1].input])[0], down.predict([ROWS[1].input])[0]
    assert (one.chunks, one.spans) == (other.chunks, ())
    assert other.spans[0]["error"] == "is down"
    assert opened(HybridSearch(), tmp_path / "c", folders, "retrieve", reranker=Overlap(),
                  params={"rerank": False}).predict(["bono"])[0].spans == ()


def test_the_tasks_own_prompt_is_asked_with_the_passages(folders: dict[str, Path], tmp_path: Path) -> None:
    spec = {"name": "atencion", "system": "Eres de Voltaria.", "voice": {"examples": [{"ours": "¡Hecho!"}]},
            "user": "{% for p in passages %}<{{ p.number }}: {{ p.text }}>\n{% endfor %}Pregunta: {{ input }}"}
    with remote(lambda messages, body: "20 euros [1]") as (chat, peer):
        rag = opened(Rag(), tmp_path / "a", folders, "answer", chat=chat, params={"prompt": spec, "passages": 2})
        found = rag.predict([ROWS[0].input])[0]
    messages = peer.asked[-1]["messages"]
    assert messages[0]["content"].startswith("Eres de Voltaria.")
    assert "¡Hecho!" in messages[0]["content"]
    assert messages[-1]["content"].startswith("<1: La tarifa nocturna cuesta 20 euros")
    assert messages[-1]["content"].count("<") == 2
    assert (found.output, found.citations) == ("20 euros", ("chunk:tarifas.md",))
    with remote(lambda messages, body: "20 euros") as (chat, peer):
        closed = opened(ClosedBook(), tmp_path / "b", folders, "answer", chat=chat, params={"prompt": spec})
        assert closed.predict(["¿cuánto?"])[0].output == "20 euros"
    assert [m["content"] for m in peer.asked[-1]["messages"]][1] == "Pregunta: ¿cuánto?"
