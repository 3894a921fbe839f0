"""bucle.yaml: every complaint names its line and the nearest key; nothing in the file can hang or crash the reader."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bucle.core.config import MonitorRules, Project, load_project
from bucle.core.errors import ConfigError
from bucle.core.yamlfile import MAX_BYTES, load_yaml_model

BASE = "project: tienda\ntasks:\n  intents: {kind: classify, data: x.csv}\n"


def complaint(folder: Path, text: str | bytes) -> ConfigError:
    path = folder / "bucle.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_project(folder)
    assert caught.value.hint
    assert str(path) in caught.value.message
    return caught.value


@pytest.mark.parametrize(("text", "line", "key", "near"), [
    (BASE + "sed: 3\n", 4, "sed", "seed"),
    (BASE + "serve:\n  host: 0.0.0.0\n  prt: 8\n", 6, "serve.prt", "port"),
    (BASE + "data:\n  documents:\n    path: docs\n    patern: x\n", 7, "data.documents.patern", "patterns"),
    (BASE + "models:\n  m:\n    kind: openai\n    base_url: u\n    model: m\n    api_key_en: K\n", 9,
     "models.m.api_key_en", "api_key_env"),
    (BASE + "models:\n  m: {kind: pretrain}\n  n:\n    kind: pretrain\n    layer: 2\n", 8, "models.n.layer", "layers"),
    (BASE.replace("}", ", spit: 1}"), 3, "tasks.intents.spit", "split"),
    # a task may be called as a kind is: the kind that counts is the one written under it
    ("project: a\ndata: {documents: {path: d}}\ntasks:\n  classify:\n    kind: answer\n    data: x\n    documnt: d\n",
     7, "tasks.classify.documnt", "document"),
    ("project: a\ntasks:\n  answer:\n    kind: classify\n    data: x\n    lable: d\n", 6, "tasks.answer.lable",
     "label"),
    # a misspelt key explains the one that is missing
    (BASE.replace("data", "dta"), 3, "tasks.intents.dta", "data"),
])
def test_an_unknown_key_names_its_line_and_the_nearest(
    tmp_path: Path, text: str, line: int, key: str, near: str
) -> None:
    error = complaint(tmp_path, text)
    assert f"bucle.yaml:{line}: unknown key `{key}`" in error.message
    assert error.hint == f"Did you mean `{near}`?"


def test_an_unknown_key_like_no_other_lists_those_of_its_place(tmp_path: Path) -> None:
    error = complaint(tmp_path, BASE + "split:\n  zzzzzz: 1\n")
    assert error.hint == "Known here: by, test, validation."


@pytest.mark.parametrize(("text", "line", "says"), [
    (BASE + "monitor:\n  window_days: 1\n  alarm_rate: mucho\n", 6, "`monitor.alarm_rate`"),
    (BASE + "split:\n  test: 0.9\n", 5, "less than 0.8"),
    (BASE + "choose:\n  techniques:\n    lora: 3\n", 6, "`choose.techniques.lora`"),
    (BASE.replace("classify", "clasify"), 3, "classify, answer"),
    ("project: a\n", 1, "a project needs `tasks:`"),
    ("project: a\ntasks:\n  t:\n    kind: classify\n", 3, "`tasks.t.data` is missing"),
    (BASE + "replay: {log: l, task: otra}\n", 1, "none of the tasks: intents"),
    (BASE + "seed: 1\nproject: b\n", 5, "`project` stands here a second time"),
    ("a: [1,\nb: {\n", 3, "not valid YAML"),
    ("- a\n- b\n", 1, "expected keys and values"),
    (BASE + "---\nproject: b\n", 4, "not valid YAML"),
    (BASE + "seed: !!python/object/apply:os.system [echo]\n", 4, "`seed`"),
    (BASE + "seed: !!python/name:os.system x\n", 4, "'x' cannot be read as"),
    (BASE + "language: 2024-13-45\n", 4, "cannot be read as `timestamp`"),
    (BASE + "seed: " + "9" * 6000 + "\n", 4, "cannot be read as `int`"),
])
def test_what_cannot_be_meant_names_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    message = complaint(tmp_path, text).message
    assert f"bucle.yaml:{line}:" in message
    assert says in message
    assert len(message) < 500


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = complaint(tmp_path, BASE + "language: fr\nsed: 3\nserve: {port: 70000}\n").message
    assert [line.split(":")[1] for line in message.splitlines()] == ["4", "5", "6"]


@pytest.mark.parametrize("text", [
    b"project: \xff\xfe\n", b"project: a\x00b\n", b"", b"# only a comment\n", b"project: " + b"a" * MAX_BYTES,
    b"a: " + b"[" * 5000 + b"]" * 5000, b"a: " + b"{b: " * 60 + b"1" + b"}" * 60,
    b"a: &a [*a, *a, *a]\n",
    b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)),
])
def test_a_hostile_file_is_refused_within_seconds(tmp_path: Path, text: bytes) -> None:
    began = time.monotonic()
    assert len(complaint(tmp_path, text).message) < 400
    assert time.monotonic() - began < 10


def test_a_place_without_a_project_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(tmp_path)
    assert caught.value.hint == f"bucle init {tmp_path}"
    (tmp_path / "notes.txt").write_text("hola")
    (tmp_path / "bucle.yaml").mkdir()
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_project(path)


def test_a_file_with_a_mark_accents_and_aliases_is_read(tmp_path: Path) -> None:
    text = "\ufeff" + BASE + "monitor: &m {window_days: 0.5}\n" + "data: {languages: [es, en]}\n"
    (tmp_path / "bucle.yaml").write_text(text.replace("tienda", "Atención 24 h"), encoding="utf-8")
    project = load_yaml_model(tmp_path / "bucle.yaml", Project)
    assert project == load_project(tmp_path / "bucle.yaml")
    assert (project.project, project.data.languages) == ("Atención 24 h", ("es", "en"))
    assert project.monitor == MonitorRules(window_days=0.5)


@pytest.mark.parametrize(("kind", "key", "hint"), [
    ("generate", "text", "A `generate` reads `input` and `reference`."),
    ("generate", "label", "A `generate` reads `input` and `reference`."),
    ("retrieve", "question", "A `retrieve` reads `query` and `document`."),
    ("classify", "input", "A `classify` reads `text` and `label`."),
    ("generate", "inptu", "Did you mean `input`?"),
])
def test_a_key_of_another_kind_is_answered_with_the_keys_of_this_one(
    tmp_path: Path, kind: str, key: str, hint: str
) -> None:
    told = complaint(tmp_path, f"project: a\ntasks:\n  t:\n    kind: {kind}\n    data: x\n    {key}: y\n")
    assert f":6: unknown key `tasks.t.{key}`." in told.message
    assert told.hint == hint


def test_a_judge_that_is_not_described_is_left_to_the_check_that_knows_its_line(tmp_path: Path) -> None:
    (tmp_path / "bucle.yaml").write_text(
        "project: a\ntasks:\n  t: {kind: generate, data: x, metrics: [chrf, 'judge:tono']}\n", encoding="utf-8")
    assert load_project(tmp_path).tasks["t"].metrics == ("chrf", "judge:tono")
