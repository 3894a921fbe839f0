"""What another library's chain returns, read as a Prediction: texts, messages, documents, objects with sources."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Prediction, TaskKind, Usage

__all__ = ["brief", "chunk_ids", "read_answer", "usage_of"]

ANSWERS = ("answer", "output", "result", "response", "text", "content", "label")
SOURCES = ("source_documents", "context", "documents", "sources", "source_nodes")
PLACES = ("chunk_id", "chunk", "path", "file_path", "source", "file_name")
"""Where a document's metadata says what it is, the first that is there: a passage's id here, else its path."""
EMPTY = "Empty Response"  # what LlamaIndex says where nothing was retrieved
SAID = ("page_content", "content", "query_str", "text", "response", "generations", "message")
"""Where the objects of either library have what they say."""
MOST_SHOWN, MOST_READ = 12, 20_000
MAX_CHARACTERS = 200_000
MAX_PIECES = 100_000
MAX_SOURCES = 1000


def read_answer(
    value: Any, *, kind: TaskKind, retrieved: Sequence[Any] = (), root: Path | None = None
) -> Prediction:
    """`value` as a Prediction. A mapping's answer is at the first of ANSWERS, its sources at the first of SOURCES; of
    an extract task a mapping or a pydantic object without an answer is the answer. A list of documents is what a
    retrieve task asks for: its output is their paths. Sources are what the answer cites; `retrieved` documents were
    only found. Absolute paths inside `root` become relative to it. Nothing said is an abstention. Raises BadInput."""
    sources, cited, score, usage = list[Any](), None, None, Usage()
    if hasattr(value, "source_nodes"):
        sources = list(value.source_nodes)[:MAX_SOURCES]
        value = getattr(value, "response", "")
        value = "" if value is None or (value == EMPTY and not sources) else value
    elif _documents(value):
        sources, value = list(value)[:MAX_SOURCES], None
    elif isinstance(value, Mapping):
        found = next((value[name] for name in SOURCES if _documents(value.get(name))), ())
        sources = list(found)[:MAX_SOURCES]
        score = _score(value.get("score", value.get("confidence")))
        if isinstance(value.get("citations"), list | tuple):
            cited = chunk_ids(value["citations"][:MAX_SOURCES], root)
        answer = "" if value.get("abstained") is True else _answer_of(value, kind, bool(sources))
        if usage_of(answer) != Usage():
            usage = usage_of(answer)
        value = answer
    ids = chunk_ids(sources or list(retrieved)[:MAX_SOURCES], root)
    text = _text(value, kind)
    if kind == "retrieve" and not text:
        text = "\n".join(_paths(sources or list(retrieved)[:MAX_SOURCES], root))
    silent = not text
    own = cited if cited is not None else chunk_ids(sources, root)
    return Prediction(
        output=text, score=score, abstained=silent, chunks=ids, usage=usage if usage != Usage() else usage_of(value),
        citations=() if silent or kind == "retrieve" else own,
    )


def chunk_ids(documents: Sequence[Any], root: Path | None = None) -> tuple[str, ...]:
    """What each document (of either library, or an id) is called, once: see PLACES; else its own id."""
    return tuple(dict.fromkeys(name for name in (_name(one, PLACES, root) for one in documents) if name))


def usage_of(value: Any) -> Usage:
    """Tokens that a LangChain message tells (`usage_metadata`); none otherwise."""
    told = getattr(value, "usage_metadata", None)
    if not isinstance(told, Mapping):
        return Usage()
    return Usage(tokens_in=_count(told.get("input_tokens")), tokens_out=_count(told.get("output_tokens")))


def brief(value: Any, depth: int = 5) -> str:
    """The beginning of what one of a library's steps was given or gave, as text: of messages, documents, prompts and
    responses what they say, of anything unknown its type. Nothing is consumed."""
    if isinstance(value, str):
        return str(value[:MOST_READ])
    if value is None or isinstance(value, bool | int | float):
        return "" if value is None else str(value)
    if depth == 0 or isinstance(value, type | Iterator):
        return f"<{getattr(value, '__name__', type(value).__name__)}>"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {brief(one, depth - 1)}" for key, one in islice(value.items(), MOST_SHOWN))
    if isinstance(value, list | tuple | set | frozenset):
        return "; ".join(brief(one, depth - 1) for one in islice(value, MOST_SHOWN))
    with contextlib.suppress(Exception):  # somebody else's property
        if callable(to_string := getattr(value, "to_string", None)):  # a LangChain prompt
            return str(to_string())[:MOST_READ]
        for name in SAID:
            if (said := getattr(_node(value), name, None)) is not None and (
                    isinstance(said, str) or not callable(said)):
                return brief(said, depth - 1)
    return f"<{type(value).__name__}>"


def _answer_of(value: Mapping[Any, Any], kind: TaskKind, has_sources: bool) -> Any:
    name = next((name for name in ANSWERS if name in value), None)
    if name is not None:
        return value[name]
    if kind == "extract":
        return dict(value)
    if kind == "retrieve" and has_sources:
        return None
    raise BadInput(f"The object returned a mapping with {', '.join(map(str, value)) or 'nothing'}"[:200]
                   + ", none of which is read as the answer.",
                   f"Return a text, or a mapping with one of: {', '.join(ANSWERS)}.")


def _text(value: Any, kind: TaskKind) -> str:
    if value is None:
        return ""
    if hasattr(value, "content") and not isinstance(value, Mapping):  # a message
        value = value.content
        if isinstance(value, list):
            value = "".join(b if isinstance(b, str) else str(b.get("text", "")) for b in value[:MAX_PIECES])
    elif isinstance(value, Iterator):
        value = "".join(_text(piece, kind) for piece in islice(value, MAX_PIECES))
    elif hasattr(value, "model_dump_json"):
        value = value.model_dump_json()
    elif isinstance(value, Mapping) or (kind == "extract" and isinstance(value, list)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    elif isinstance(value, bool | int | float):
        value = str(value)
    if not isinstance(value, str):
        raise BadInput(f"The object returned a {type(value).__name__}, which is no text.",
                       "Return a text, a message, or a mapping with an `answer`.")
    if len(value) > MAX_CHARACTERS:
        raise BadInput(f"The object returned {len(value):,} characters.", f"At most {MAX_CHARACTERS:,} are an answer.")
    return value.strip()


def _documents(value: Any) -> bool:
    return (isinstance(value, list | tuple) and bool(value)
            and all(hasattr(_node(one), "metadata") for one in value[:MAX_SOURCES]))


def _node(one: Any) -> Any:
    """The document of a LlamaIndex NodeWithScore, or the thing itself."""
    return getattr(one, "node", one)


def _name(one: Any, places: Sequence[str], root: Path | None) -> str:
    if isinstance(one, str):
        return _inside(one, root)
    node = _node(one)
    told = getattr(node, "metadata", one if isinstance(one, Mapping) else {})
    told = told if isinstance(told, Mapping) else {}
    named = next((str(told[p]) for p in places if told.get(p)), "")
    return _inside(named or str(told.get("id") or getattr(node, "id", None) or getattr(node, "node_id", None) or ""),
                   root)


def _paths(documents: Sequence[Any], root: Path | None) -> tuple[str, ...]:
    places = tuple(p for p in PLACES if not p.startswith("chunk"))
    return tuple(dict.fromkeys(name for name in (_name(one, places, root) for one in documents) if name))


def _inside(name: str, root: Path | None) -> str:
    if root is not None and name.startswith("/") and Path(name).is_relative_to(root):
        return Path(name).relative_to(root).as_posix()
    return name


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
