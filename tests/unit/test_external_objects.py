"""A LangChain Runnable and a LlamaIndex query engine stand as candidates unchanged: both libraries are the real ones,
and the model that they ask is behind a real server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from chat_peer import Peer

from bucle.core.config import External
from bucle.core.errors import BadInput, ConfigError
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Example, Prediction
from bucle.customise.external import ExternalTechnique
from bucle.customise.external.answers import read_answer
from bucle.customise.external.technique import external_params
from bucle.evaluate.scoring import Scoring, score

MODEL = '''
import httpx
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult

URL = "{url}"


class Wire(BaseChatModel):
    """LangChain's own interface over the OpenAI wire."""

    @property
    def _llm_type(self):
        return "wire"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        role = {{"human": "user", "ai": "assistant"}}
        body = {{"messages": [{{"role": role.get(m.type, m.type), "content": m.content}} for m in messages]}}
        reply = httpx.post(URL + "/chat/completions", json=body, timeout=10)
        reply.raise_for_status()
        told = reply.json()
        used = told["usage"]
        said = AIMessage(told["choices"][0]["message"]["content"], usage_metadata={{
            "input_tokens": used["prompt_tokens"], "output_tokens": used["completion_tokens"],
            "total_tokens": used["prompt_tokens"] + used["completion_tokens"]}})
        return ChatResult(generations=[ChatGeneration(message=said)])
'''

CHAINS = MODEL + '''
import time
from typing_extensions import TypedDict
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

PASSAGES = {{"luz.md": "La luz cuesta 19 euros.", "gas.md": "El gas cuesta 7 euros."}}


class Words(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(text, metadata={{"source": path}}) for path, text in PASSAGES.items()
                if path.removesuffix(".md") in query.lower()]


PROMPT = ChatPromptTemplate.from_messages([("system", "Responde."), ("human", "{{context}}\\n{{question}}")])
text = {{"context": Words(), "question": RunnablePassthrough()}} | PROMPT | Wire() | StrOutputParser()
message = ChatPromptTemplate.from_template("Di {{question}}") | Wire()
cited = RunnablePassthrough.assign(source_documents=lambda given: Words().invoke(given["input"])) | (
    RunnablePassthrough.assign(answer=lambda given: given["source_documents"][0].page_content
                               if given["source_documents"] else ""))
found = Words()


def _behaves(question: str) -> str:
    if question == "slow":
        time.sleep(1.2)
    if question == "key":
        raise RuntimeError("Incorrect API key provided: sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCD")
    if question == "late":
        raise httpx.ReadTimeout("the read timed out")
    if question == "away":
        return httpx.get("http://127.0.0.1:9/").text
    if question == "number":
        return object()
    return question.upper()


behaves = RunnableLambda(_behaves)


def labelled(access=frozenset()):
    secret = ["rescate.md"] if "jefes" in access else []
    return RunnableLambda(lambda question: {{"answer": ", ".join(["todos.md", *secret]), "citations": secret}})


class Asked(TypedDict):
    question: str
    access: list[str]


def configured(folder):
    def answer(given: Asked) -> str:
        return f"{{given['question']}} {{given['access']}} {{folder.name}}"

    return RunnableLambda(answer)


def _loose(given: dict) -> str:
    return given["input"] + given["question"]


loose = RunnableLambda(_loose)


two = ChatPromptTemplate.from_template("{{a}} {{b}}") | Wire()
nothing = 3
'''


def run(project: Path, name: str, inputs: list[str], *, library: str = "langchain", kind: Any = "answer",
        access: frozenset[str] = frozenset(), labels: Any = None, timeout_s: float = 10,
        trusted: bool = True) -> list[Prediction]:
    return opened(project, name, library=library, kind=kind, labels=labels, timeout_s=timeout_s,
                  trusted=trusted).predict(inputs, access=access)


def opened(project: Path, name: str, *, library: str = "langchain", kind: Any = "answer", labels: Any = None,
           timeout_s: float = 10, trusted: bool = True) -> Any:
    settings = External.model_validate({"library": library, "object": name, "timeout_s": timeout_s})
    params = external_params(settings, project)
    out = project / "out"
    out.mkdir(exist_ok=True)
    technique = ExternalTechnique()
    figures = technique.fit(FitContext(out=out, work=out, train=(), validation=(), labels=(), params=params, seed=7,
                                       report=lambda done, total, note="": None, kind=kind, project=project,
                                       trusted=trusted))
    json.dumps(figures)
    assert {p.name for p in out.iterdir()} == {"external.json"}
    extra = {} if labels is None else {"labels": labels}
    return technique.load(out, LoadContext(labels=(), params=params, kind=kind, project=project, trusted=trusted,
                                           extra=extra))


@pytest.fixture(scope="module")
def peer() -> Any:
    served = Peer(lambda messages, body: messages[-1]["content"].splitlines()[0].strip("[]"))
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def project(tmp_path: Path, peer: Peer) -> Path:
    (tmp_path / "chains.py").write_text(CHAINS.format(url=peer.url), "utf-8")
    return tmp_path


def test_a_runnable_answers_with_its_passages_tokens_and_one_trace(project: Path) -> None:
    said = run(project, "chains:text", ["¿Cuánto cuesta la luz?", "¿Y el gas?"])
    assert ["19 euros" in said[0].output, "7 euros" in said[1].output] == [True, True]
    assert [p.chunks for p in said] == [("luz.md",), ("gas.md",)]
    assert all(p.citations == () for p in said), "it says what it answers from, but cites nothing"
    assert all(p.usage.tokens_in > 3 and p.usage.tokens_out > 3 and 0 < p.ms < 10_000 for p in said)
    names = [span["name"] for span in said[0].spans]
    assert names[0] == "RunnableSequence"
    assert {"Words", "ChatPromptTemplate", "Wire", "StrOutputParser"} <= set(names)
    assert "parent" not in said[0].spans[0]
    assert all(span["parent"] < place for place, span in enumerate(said[0].spans) if place)
    wire = next(span for span in said[0].spans if span["name"] == "Wire")
    assert wire["kind"] == "model"
    assert (said[0].spans[0]["input"], said[0].spans[0]["output"]) == ("¿Cuánto cuesta la luz?", said[0].output)
    found = next(span for span in said[0].spans if span["name"] == "Words")
    assert (found["input"], found["output"]) == ("¿Cuánto cuesta la luz?", "La luz cuesta 19 euros.")
    assert "Responde." in wire["input"]
    assert wire["output"] == said[0].output
    assert wire["tokens_in"] == said[0].usage.tokens_in
    json.dumps([p.model_dump() for p in said])


def test_outputs_are_read_as_they_are(project: Path) -> None:
    assert run(project, "chains:message", ["hola"])[0].output == "Di hola"
    first, nothing = run(project, "chains:cited", ["la luz", "el agua"])
    assert (first.output, first.chunks, first.citations) == ("La luz cuesta 19 euros.", ("luz.md",), ("luz.md",))
    assert (nothing.output, nothing.abstained, nothing.citations, nothing.error) == ("", True, (), "")
    paths = run(project, "chains:found", ["luz y gas"], kind="retrieve")[0]
    assert (paths.output, paths.chunks) == ("luz.md\ngas.md", ("luz.md", "gas.md"))
    assert run(project, "chains:found", []) == []
    assert run(project, "chains:loose", ["a"])[0].output == "aa", "an object whose keys nobody tells has them all"


def test_what_fails_is_that_rows_typed_error_and_nobody_elses(project: Path) -> None:
    began = time.perf_counter()
    said = run(project, "chains:behaves", ["slow", "key", "late", "away", "number", "", "ñ\u2028", *"abcdefgh"],
               timeout_s=0.6)
    assert time.perf_counter() - began < 1.1, "one that hangs holds nobody up"
    kinds = [p.error_kind for p in said]
    assert kinds[:5] == ["UpstreamTimeout", "BadInput", "UpstreamTimeout", "ModelUnavailable", "BadInput"]
    assert kinds[5:] == [""] * 10
    assert [p.output for p in said[5:]] == ["", "Ñ", *"ABCDEFGH"]
    assert "0.6 s" in said[0].error
    assert "Raise `timeout_s`" in said[0].error
    assert "RuntimeError" in said[1].error
    assert "sk-proj" not in json.dumps([p.model_dump() for p in said])
    assert all("Traceback" not in p.error and len(p.error) < 500 for p in said)


def test_no_secret_of_the_environment_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_NAME", "quiet-quiet-99")
    monkeypatch.setenv("TEAM_PASSWORD", "hush hush 1234567890")
    (project / "bucle.yaml").write_text("models: {gpt: {api_key_env: ODD_NAME}}")
    (project / "leaky.py").write_text('''
import os
from langchain_core.runnables import RunnableLambda

def _leaks(question):
    if question == "raise":
        raise RuntimeError("x" * 290 + os.environ["TEAM_PASSWORD"] + os.environ["ODD_NAME"])
    return {"answer": "ok", "key": os.environ["ODD_NAME"]}

leaks = RunnableLambda(_leaks)
''')
    said = run(project, "leaky:leaks", ["raise", "tell"])
    assert [one.error_kind for one in said] == ["BadInput", ""]
    assert "key: ***" in said[1].spans[0]["output"]
    told = json.dumps([one.model_dump() for one in said])
    assert not any(part in told for part in ("hush", "quiet"))


def test_labels_are_given_or_nobody_is_answered(project: Path) -> None:
    some, labels = frozenset({"jefes"}), {"rescate.md": ("jefes",), "todos.md": ()}
    makes = opened(project, "chains:labelled", labels=labels)
    assert [makes.predict(["x"], access=a)[0].output for a in (frozenset(), some, frozenset())] == [
        "todos.md", "todos.md, rescate.md", "todos.md"]
    assert makes.predict(["x"], access=some)[0].citations == ("rescate.md",)
    assert run(project, "chains:configured", ["q"], labels=labels, access=some)[0].output == (
        f"q ['jefes'] {project.name}")
    for access in (frozenset(), some):
        refused = run(project, "chains:cited", ["la luz"], labels=labels, access=access)[0]
        assert (refused.output, refused.chunks, refused.error_kind) == ("", (), "BadInput")
        assert "access" in refused.error
    assert run(project, "chains:cited", ["la luz"], labels={"luz.md": ()}, access=some)[0].output
    assert run(project, "chains:cited", ["la luz"], access=some)[0].error, "not known whether any has labels"


def test_it_runs_only_with_trust_and_as_it_was_fitted(project: Path) -> None:
    with pytest.raises(ConfigError, match="nobody has said that it may run") as caught:
        opened(project, "chains:text", trusted=False)
    assert "--trust" in caught.value.hint
    before = opened(project, "chains:labelled")
    file = project / "chains.py"
    file.write_text(file.read_text("utf-8").replace("todos.md", "otros.md"), "utf-8")
    kept = ExternalTechnique().load(project / "out", LoadContext(labels=(), params={}, project=project, trusted=True))
    assert kept.predict(["x"])[0].output == before.predict(["x"])[0].output == "todos.md"
    settings = External(library="langchain", object="chains:labelled")
    assert external_params(settings, project)["source"]
    assert run(project, "chains:labelled", ["x"])[0].output == "otros.md", "an edited file is another candidate"
    for name, problem in {"chains:gone": "no function or object", "other:x": "needs the file other.py",
                          "chains:nothing": "is a int; langchain wants a Runnable",
                          "chains:two": "none of them is the question's place"}.items():
        with pytest.raises(ConfigError, match=problem):
            opened(project, name)
    (project / "broken.py").write_text("1/0")
    with pytest.raises(ConfigError, match="does not run: ZeroDivisionError"):
        opened(project, "broken:x")
    with pytest.raises(ConfigError, match="says no object"):
        ExternalTechnique().fit(FitContext(out=project, work=project, train=(), validation=(), labels=(), params={},
                                           seed=7, report=lambda done, total, note="": None, project=project))


def test_a_python_function_stands_beside_them(project: Path) -> None:
    (project / "own.py").write_text('''
async def slow(question: str, access: frozenset = frozenset()) -> dict:
    return {"answer": question[::-1], "score": 0.5, "citations": ["a.md"], "documents": [{"metadata": 1}]}

class Many:
    def predict(self, inputs):
        return [{"total": len(one)} for one in inputs]

many = Many()
''', "utf-8")
    one = run(project, "own:slow", ["abc"], library="python", labels={"x": ("y",)}, access=frozenset({"y"}))[0]
    assert (one.output, one.score, one.citations) == ("cba", 0.5, ("a.md",))
    assert run(project, "own:many", ["abc"], library="python", kind="extract")[0].output == '{"total": 3}'
    other = run(project, "own:many", ["abc"], library="python")[0]
    assert (other.output, other.error_kind) == ("", "BadInput")
    assert "a mapping with total, none of which is read as the answer" in other.error
    assert "answer, output, result" in other.error


@pytest.mark.parametrize(("value", "output"), [
    ("  hola ", "hola"), (None, ""), (3, "3"), (iter(["a", "b"]), "ab"), ({"result": "r"}, "r"),
    ({"label": "x", "why": "y"}, "x"),
    ({"answer": "a", "abstained": True}, ""), ({"answer": None}, ""),
])
def test_any_plain_value_is_an_answer(value: Any, output: str) -> None:
    made = read_answer(value, kind="answer")
    assert (made.output, made.abstained) == (output, not output)


@pytest.mark.parametrize("value", [object(), {"a": 1, "b": 2}, "x" * 200_001, ["a", "b"], {}])
def test_what_is_no_answer_is_told(value: Any) -> None:
    with pytest.raises(BadInput):
        read_answer(value, kind="answer")


ENGINES = '''
import httpx
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import Response
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import get_response_synthesizer
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode

URL = "{url}"
PASSAGES = {{"luz.md": "La luz cuesta 19 euros.", "gas.md": "El gas cuesta 7 euros."}}


class Wire(CustomLLM):
    """LlamaIndex's own interface over the OpenAI wire."""

    @property
    def metadata(self):
        return LLMMetadata(model_name="wire", context_window=4096, num_output=100)

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        reply = httpx.post(URL + "/chat/completions", json={{"messages": [{{"role": "user", "content": prompt}}]}})
        told = reply.raise_for_status().json()
        return CompletionResponse(text=told["choices"][0]["message"]["content"], raw=told)

    @llm_completion_callback()
    def stream_complete(self, prompt, formatted=False, **kwargs):
        yield self.complete(prompt)


class Words(BaseRetriever):
    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=TextNode(text=text, metadata={{"file_path": path}}), score=0.5)
                for path, text in PASSAGES.items() if path.removesuffix(".md") in query_bundle.query_str.lower()]


def engine():
    return RetrieverQueryEngine(Words(), get_response_synthesizer(llm=Wire()))


class OnlyAsync:
    async def aquery(self, question, access=frozenset()):
        return Response(f"{{question}} {{sorted(access)}}", [])


only_async = OnlyAsync()


def indexed():
    from bucle.models.encoder import encoder_folder, shared_encoder
    from llama_index.core import Document, VectorStoreIndex

    class Local(BaseEmbedding):
        def _get_query_embedding(self, query):
            return shared_encoder(encoder_folder()).embed([query])[0]

        def _get_text_embedding(self, text):
            return shared_encoder(encoder_folder()).embed([text])[0]

        async def _aget_query_embedding(self, query):
            return self._get_query_embedding(query)

    documents = [Document(text=text, metadata={{"path": path}}) for path, text in PASSAGES.items()]
    return VectorStoreIndex.from_documents(documents, embed_model=Local()).as_query_engine(
        llm=Wire(), similarity_top_k=1)
'''


def _context_of(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
    """A reader of the wire: the sentence of the prompt that has `euros`."""
    return next((line for line in messages[-1]["content"].splitlines() if "euros" in line), "NO CONSTA")


@pytest.fixture
def engines(tmp_path: Path) -> Any:
    served = Peer(_context_of)
    (tmp_path / "engines.py").write_text(ENGINES.format(url=served.url), "utf-8")
    yield tmp_path
    served.server.shutdown()
    served.server.server_close()


def test_a_query_engine_answers_with_its_sources_tokens_and_one_trace(engines: Path) -> None:
    said = run(engines, "engines:engine", ["¿Cuánto cuesta la luz?", "¿Y el gas?", "¿Y el agua?"],
               library="llamaindex", kind="answer")
    assert [p.output for p in said] == ["La luz cuesta 19 euros.", "El gas cuesta 7 euros.", ""]
    assert [p.citations for p in said] == [("luz.md",), ("gas.md",), ()]
    assert [p.abstained for p in said] == [False, False, True], "nothing retrieved is an abstention"
    assert said[0].usage.tokens_in > 5
    assert said[0].usage.tokens_out == 5
    names = [span["name"] for span in said[0].spans]
    assert names[0] == "RetrieverQueryEngine.query"
    assert {"Wire.complete", "BaseRetriever.retrieve"} & set(names), names
    assert (said[0].spans[0]["input"], said[0].spans[0]["output"]) == ("¿Cuánto cuesta la luz?", said[0].output)
    assert all(span["input"] for span in said[0].spans)
    assert all(span["parent"] < place for place, span in enumerate(said[0].spans) if place)
    only = run(engines, "engines:only_async", ["q"], library="llamaindex", labels={"a": ("b",)},
               access=frozenset({"b"}))[0]
    assert only.output == "q ['b']"
    refused = run(engines, "engines:engine", ["¿Y el gas?"], library="llamaindex", labels={"a": ("b",)})[0]
    assert refused.error_kind == "BadInput"


@pytest.mark.torch
def test_both_are_measured_beside_quote(engines: Path, project: Path) -> None:
    from bucle.core.records import Chunk
    from bucle.customise.retrieve import Quote
    from bucle.customise.retrieve.index import build_index
    from bucle.models.encoder import encoder_folder

    rows = [Example(id="1", input="¿Cuánto cuesta la luz?", target="La luz cuesta 19 euros.", document="luz.md"),
            Example(id="2", input="¿Cuánto cuesta el gas?", target="El gas cuesta 7 euros.", document="gas.md"),
            Example(id="3", input="¿Cuánto cuesta el agua?", target=None)]
    index, out = engines / "index", engines / "quote"
    index.mkdir()
    out.mkdir()
    texts = {"luz.md": "La luz cuesta 19 euros.", "gas.md": "El gas cuesta 7 euros."}
    chunks = [Chunk(id=f"chunk:{p}", document_id=p, path=p, text=t, language="es") for p, t in texts.items()]
    build_index(chunks, index, encoder=encoder_folder(), language="es", report=lambda done, total, note="": None)
    Quote().fit(FitContext(out=out, work=out, train=rows, validation=(), labels=(), params={}, seed=7, index=index,
                           encoder=encoder_folder(), report=lambda done, total, note="": None))
    quote = Quote().load(out, LoadContext(labels=(), params={}, index=index, encoder=encoder_folder()))
    scoring = Scoring(kind="answer", documents={c.id: c.path for c in chunks})
    found = {}
    for name, candidate in {"quote": quote, "llamaindex": opened(engines, "engines:indexed", library="llamaindex"),
                            "langchain": opened(project, "chains:cited")}.items():
        said = candidate.predict([row.input for row in rows])
        assert [p.error for p in said] == ["", "", ""], name
        found[name] = score(scoring, rows, said).figures
    assert found["langchain"]["exact_match"] == 1
    assert found["langchain"]["citation_precision"] == 1
    assert found["llamaindex"]["exact_match"] >= 2 / 3
    assert found["llamaindex"]["citation_hit"] >= 2 / 3
    assert {"token_f1", "exact_match", "abstention", "citation_hit"} <= set(found["quote"])
