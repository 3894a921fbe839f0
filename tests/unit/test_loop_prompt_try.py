"""`bucle prompt try` shows what a candidate really asks: the same messages, the same examples, the same passages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from chat_peer import remote

from bucle.core.errors import BadInput, NotFound
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Example
from bucle.customise.registry import technique
from bucle.loop.candidates import task_params
from bucle.loop.prompt_try import try_prompt
from bucle.loop.prompts import task_prompt
from bucle.loop.workspace import Workspace

FILE = """\
name: faq
inputs: {tono: {type: text, default: formal}}
system: "Tono {{ tono }}."
user: "Mensaje: {{ input }}"
shots: {count: 3, choose: diverse}
"""
TEXTS = {"luz": ["no hay luz", "se fue la luz", "sin luz en casa", "la luz parpadea"],
         "baja": ["quiero la baja", "darme de baja", "tramitar la baja", "baja del contrato"]}


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A project whose rows a run has read: six train, two are held out."""
    (tmp_path / "faq.yaml").write_text(FILE)
    task = {"kind": "classify", "data": "rows.tsv", "text": "text", "label": "label", "prompt": "faq.yaml"}
    body = {"project": "p", "tasks": {"t": task, "r": {"kind": "summarise", "data": "rows.tsv"}}, "models": {"gpt": {
        "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "gpt-4o-mini", "api_key_env": ""}}}
    (tmp_path / "bucle.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    made = Workspace.open(tmp_path)
    rows = [Example(id=f"example:{label}{n}", input=text, target=label) for label, texts in TEXTS.items()
            for n, text in enumerate(texts)]
    lines = "".join(row.model_dump_json() + "\n" for row in rows).encode()
    dataset = made.ledger.put("dataset", {"task": "t", "rows": len(rows)}, blobs={"examples.jsonl": lines})
    sides = {"train": [r.id for r in rows if not r.id.endswith("3")], "validation": [],
             "test": [r.id for r in rows if r.id.endswith("3")]}
    made.ledger.put("split", {"task": "t"}, parents=[("dataset", dataset.id)],
                    blobs={"split.json": json.dumps(sides).encode()})
    return made


@pytest.mark.parametrize("changes", ["", "thinking: true\n", "output: {type: object, required: [label]}\n"])
def test_what_is_shown_is_what_a_candidate_asks(ws: Workspace, tmp_path: Path, changes: str) -> None:
    (ws.root / "faq.yaml").write_text(FILE + changes)
    train = [Example(id=f"example:{label}{n}", input=text, target=label) for label, texts in TEXTS.items()
             for n, text in enumerate(texts[:3])]
    few, given = technique("few-shot"), task_prompt(ws, "t")
    assert given is not None
    params = {**task_params(ws, "t", few), "prompt": given.spec}
    with remote(lambda messages, body: "RESPUESTA: luz" if changes else "luz") as (model, asked):
        out = tmp_path / "out"
        out.mkdir()
        few.fit(FitContext(out=out, work=out, train=train, validation=(), labels=("baja", "luz"), params=params, seed=7,
                           report=lambda done, total, note="": None))
        few.load(out, LoadContext(labels=("baja", "luz"), params=params, seed=7, chat=model)).predict([TEXTS["luz"][3]])
        really = asked.asked[0]["messages"]
    told = try_prompt(ws, "faq.yaml", task="t", row="example:luz3")
    assert told["messages"] == really
    assert len(really) == 1 + 3 * 2 + 1
    assert told["row"] == {"id": "example:luz3", "target": "luz", "side": "test"}
    assert told["text"].count("Mensaje: ") == 4


def test_a_row_of_the_training_side_is_never_its_own_example(ws: Workspace) -> None:
    told = try_prompt(ws, "faq.yaml", task="t", row="no hay luz", values={"tono": "cercano"})
    assert [m["content"] for m in told["messages"]].count("Mensaje: no hay luz") == 1
    assert told["messages"][0]["content"] == "Tono cercano.\nbaja, luz"
    assert (told["how"], told["context"]) == ("encoding", None)  # a server of the team's own: its context is not known


def test_a_providers_model_that_is_not_configured_is_counted(ws: Workspace) -> None:
    told = try_prompt(ws, "faq.yaml", model="gpt-4o", text="hola")
    assert (told["model"], told["how"], told["context"]) == ("gpt-4o", "encoding", 128_000)
    assert sum(told["parts"].values()) == told["tokens"]
    assert told["of_project"] is False
    with pytest.raises(BadInput, match="no model of this project") as caught:
        try_prompt(ws, "faq.yaml", model="gtp", text="hola")
    assert "`gpt`" in caught.value.hint


def test_what_cannot_be_tried_says_why(ws: Workspace) -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"task": "t", "row": "nada"}, NotFound, "has no row"), ({"task": "x", "text": "a"}, BadInput, "no task"),
        ({"row": "a"}, BadInput, "which task"), ({}, BadInput, "which input"),
        ({"task": "r", "text": "a"}, NotFound, "No version of `r`"),
    ]
    for given, kind, said in cases:
        with pytest.raises(kind, match=said):
            try_prompt(ws, "faq.yaml", **given)
