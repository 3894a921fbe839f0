"""Prompts in the ledger: versions by name, aliases with history, what a name stands for, a task's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from bucle.core.errors import BadInput, ConfigError, NotFound, TemplateError
from bucle.customise.prompt.diff import difference
from bucle.customise.prompt.store import history, listed, move, resolve, save, versions
from bucle.loop.check import check_project
from bucle.loop.prompts import check_prompt, find_prompt, save_file, task_prompt
from bucle.loop.workspace import Workspace

FILE = "name: faq\ninputs:\n  tono: {type: choice, of: [formal, cercano], default: formal}\nsystem: Tono {{ tono }}.\n"


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    """A project of one task whose prompt is a file."""
    (tmp_path / "rows.tsv").write_text("text\tlabel\na\tb\n")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "faq.yaml").write_text(FILE)
    _configure(tmp_path, "prompts/faq.yaml")
    return Workspace.open(tmp_path)


def _configure(folder: Path, prompt: str) -> None:
    task = {"kind": "classify", "data": "rows.tsv", "text": "text", "label": "label", "prompt": prompt}
    (folder / "bucle.yaml").write_text(yaml.safe_dump({"project": "p", "tasks": {"t": task}}, sort_keys=False))


def _write(ws: Workspace, text: str) -> str:
    (ws.root / "prompts" / "faq.yaml").write_text(text)
    return "prompts/faq.yaml"


def test_what_changed_is_a_new_version_and_what_did_not_is_the_same(ws: Workspace) -> None:
    one = save_file(ws, "prompts/faq.yaml", by="ana")
    assert (one.version, one.node.partition(":")[0]) == (1, "prompt")
    node = ws.ledger.get(one.node)
    assert dict(node.attrs) == {"name": "faq", "about": "", "by": "ana"}
    assert ws.ledger.read(node, "prompt.yaml").decode() == FILE
    two = save_file(ws, _write(ws, FILE.replace("Tono", "El tono es")), by="luis", reason="más claro")
    again = save_file(ws, _write(ws, "# una nota\n" + FILE), by="eva", reason="vuelta")
    assert (two.version, again.version, again.node) == (2, 1, one.node)
    assert versions(ws.ledger, "faq") == [one.node, two.node]
    assert resolve(ws.ledger, "faq").version == 1  # the latest save
    assert [(m["by"], m["version"], m["reason"]) for m in history(ws.ledger, "faq")] == [
        ("ana", 1, ""), ("luis", 2, "más claro"), ("eva", 1, "vuelta")]
    assert [(p["name"], p["versions"], p["latest"]) for p in listed(ws.ledger)] == [("faq", 2, 1)]


def test_an_alias_moves_and_its_history_stays(ws: Workspace) -> None:
    one = save_file(ws, "prompts/faq.yaml", by="ana")
    two = save_file(ws, _write(ws, FILE.replace("Tono", "El tono es")), by="ana")
    assert move(ws.ledger, one, "production", by="ana", reason="primera")["before"] == ""
    assert move(ws.ledger, two, "production", by="luis", reason="mejor")["before"] == "faq@1"
    for ref, version in (("faq@production", 2), ("faq@1", 1), ("faq@2", 2), ("faq", 2), (one.node, 1),
                         (one.node[:20], 1)):
        assert find_prompt(ws, ref).version == version, ref
    moves = [(m["alias"], m["version"], m["by"]) for m in history(ws.ledger, "faq")]
    assert moves[2:] == [("production", 1, "ana"), ("production", 2, "luis")]


def test_names_and_aliases_are_never_mixed_up(ws: Workspace) -> None:
    first = save_file(ws, "prompts/faq.yaml", by="a")
    other = save_file(ws, _write(ws, FILE.replace("name: faq", "name: faq-x")), by="a")
    third = save_file(ws, _write(ws, FILE.replace("name: faq", "name: faq-saved")), by="a")
    move(ws.ledger, first, "y", by="a", reason="")
    move(ws.ledger, other, "y", by="a", reason="")
    assert find_prompt(ws, "faq@y").spec.name == "faq"
    assert find_prompt(ws, "faq-x@y").spec.name == "faq-x"
    assert [p["name"] for p in listed(ws.ledger)] == ["faq", "faq-saved", "faq-x"]
    assert [p["aliases"] for p in listed(ws.ledger)] == [{"y": 1}, {}, {"y": 1}]
    assert find_prompt(ws, "faq-saved").node == third.node
    assert len(history(ws.ledger, "faq")) == 2
    for alias in ("saved", "x-y", "a.b", "3", "1a", "", "a:b", "a b", "x" * 60):
        with pytest.raises(BadInput):
            move(ws.ledger, first, alias, by="a", reason="")


@pytest.mark.parametrize(("ref", "said", "hint"), [
    ("faqq", "No prompt is called `faqq`", "`faq`"), ("faq@produccion", "no alias `produccion`", "`faq@production`"),
    ("faq@7", "no version 7; its latest is 1", "history faq"), ("faq@0", "no version 0", ""), ("faq@", "no alias", ""),
    ("prompt:ffff", "Nothing in the ledger", ""), ("x:y", "No prompt is called", ""), ("", "No prompt is called", ""),
    ("faq@" + "9" * 400, "no version", ""),
])
def test_what_nobody_saved_names_the_nearest(ws: Workspace, ref: str, said: str, hint: str) -> None:
    move(ws.ledger, save_file(ws, "prompts/faq.yaml", by="a"), "production", by="a", reason="")
    with pytest.raises(NotFound) as error:
        find_prompt(ws, ref)
    assert said in error.value.message
    assert hint in error.value.hint


def test_a_node_that_is_no_prompt_is_refused(ws: Workspace) -> None:
    other = ws.ledger.put("dataset", {"name": "faq"})
    with pytest.raises(NotFound):
        find_prompt(ws, "prompt:" + other.id.partition(":")[2])
    with pytest.raises(BadInput, match="never saved"):
        move(ws.ledger, find_prompt(ws, "prompts/faq.yaml"), "production", by="a", reason="")


def test_a_diff_tells_text_settings_and_inputs(ws: Workspace) -> None:
    before = find_prompt(ws, "prompts/faq.yaml").spec
    changed = FILE.replace("Tono {{ tono }}.", "Sé {{ tono }} con {{ quien }}.")
    changed = changed.replace("default: formal", "default: cercano")
    changed = changed.replace("system:", "  quien: {type: text}\nshots: {count: 3}\nmax_tokens: 50\nsystem:")
    told = difference(before, find_prompt(ws, _write(ws, changed)).spec, ("faq@1", "faq@2"))
    assert "-Tono {{ tono }}." in told["text"]
    assert "+Sé {{ tono }} con {{ quien }}." in told["text"]
    assert told["text"].startswith("--- faq@1\n+++ faq@2\n")
    assert told["settings"]["max_tokens"] == [0, 50]
    assert told["settings"]["shots.count"] == [None, 3]
    assert told["inputs"] == {"added": ["quien"], "removed": [],
                              "changed": {"tono": {"default": ["formal", "cercano"]}}}
    assert not told["same"]
    assert difference(before, before)["same"]
    json.dumps(told)


def test_the_prompt_of_a_task_is_a_node_with_its_schema(ws: Workspace) -> None:
    (ws.root / "esquema.json").write_text('{"type": "object"}')
    _write(ws, FILE + "output: esquema.json\n")
    found = task_prompt(ws, "t")
    assert found is not None
    assert found.spec["output"] == {"type": "object"}
    assert ws.ledger.get(found.node).kind == "prompt"
    assert listed(ws.ledger) == []  # used from a file is not saved
    again = task_prompt(ws, "t")
    assert again == found
    saved = save_file(ws, "prompts/faq.yaml", by="ana")
    assert (saved.node, saved.version) == (found.node, 1)
    _configure(ws.root, "faq@1")
    named = task_prompt(Workspace.open(ws.root), "t")
    assert named is not None
    assert (named.node, named.spec, named.title) == (found.node, found.spec, "faq@1")


def test_a_task_whose_prompt_cannot_be_used_names_the_line(ws: Workspace) -> None:
    for ref, said in (("prompts/otro.yaml", "bucle.yaml:8: `prompt` names prompts/otro.yaml"),
                      ("faq@production", "bucle.yaml:8: No prompt is called `faq`")):
        _configure(ws.root, ref)
        with pytest.raises(ConfigError, match=re.escape(said)):
            task_prompt(Workspace.open(ws.root), "t")
    _configure(ws.root, "prompts/faq.yaml")
    _write(ws, FILE + "user: Haz algo.\n")
    with pytest.raises(ConfigError, match=r"bucle[.]yaml:8: the prompt `faq` never uses `input`"):
        task_prompt(Workspace.open(ws.root), "t")
    _write(ws, FILE.replace("{{ tono }}", "{{ tonoo }}"))
    with pytest.raises(TemplateError, match=r"faq[.]yaml:4"):
        task_prompt(Workspace.open(ws.root), "t")


def test_a_task_whose_prompt_nobody_knows_is_told_before_the_first_step(ws: Workspace) -> None:
    for ref, said in (("nada@production", "No prompt is called `nada`"), ("prompts/no.yaml", "does not exist")):
        _configure(ws.root, ref)
        with pytest.raises(ConfigError, match=said) as caught:
            check_project(Workspace.open(ws.root))
        assert "bucle.yaml:" in caught.value.message
    _configure(ws.root, "prompts/faq.yaml")
    check_project(Workspace.open(ws.root))
    assert ws.ledger.nodes("prompt") == [], "checking keeps nothing"


def test_checking_tells_what_is_declared_and_never_used(ws: Workspace) -> None:
    _write(ws, FILE.replace("inputs:", "inputs:\n  otro: {type: number}"))
    told = check_prompt(ws, "prompts/faq.yaml")
    assert told["warnings"] == ["the input `otro` is declared and stands in no template"]
    _write(ws, FILE.replace("{{ tono }}", "{{ tono + 1 }}"))
    with pytest.raises(TemplateError, match="cannot be rendered"):
        check_prompt(ws, "prompts/faq.yaml")


def test_a_prompt_from_a_ledger_is_checked_again(ws: Workspace) -> None:
    body = json.dumps({"name": "malo", "system": "{{ ''.__class__ }}"}).encode()
    node = ws.ledger.put("prompt", {"name": "malo", "about": "", "by": ""},
                         blobs={"spec.json": body, "prompt.yaml": b""})
    with pytest.raises(TemplateError, match="__class__"):
        find_prompt(ws, node.id)


def test_saving_by_two_at_once_keeps_both(ws: Workspace) -> None:
    from concurrent.futures import ThreadPoolExecutor

    spec = find_prompt(ws, "prompts/faq.yaml").spec

    def one(n: int) -> int:
        return save(ws.ledger, spec.model_copy(update={"max_tokens": n}), FILE, by=str(n)).version

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(one, range(8)))
    assert sorted(numbers) == list(range(1, 9))
