"""Chains as they are read: every mistake is told with its line and the nearest right name, before any call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BucleError, ConfigError
from bucle.core.ports import FitContext, LoadContext
from bucle.customise.chain import Chain, ChainEnv, ChainTechnique, chain, load_chain, read_chain, step
from bucle.customise.chain.draw import as_mermaid, as_text
from bucle.customise.own import own_object

HEAD = "name: c\nsteps:\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text if text.startswith("name") else HEAD + text, "utf-8")
    return path


@pytest.mark.parametrize(("text", "line", "says", "hint"), [
    ("  - {name: a, kind: retreive}", 3, "`steps.0.kind` cannot be `retreive`", "retrieve"),
    ("  - {name: a, kind: retrieve, qery: x}", 3, "unknown key", "query"),
    ("  - {name: a, kind: text, text: '{{ inptu }}'}", 3, "reads `inptu`", "`input`"),
    ("  - {name: a, kind: text, text: x}\n  - {name: b, kind: text, text: '{{ steps.aa.text }}'}", 4,
     "reads the step `aa`", "`a`"),
    ("  - {name: a, kind: text, text: x}\n  - {name: b, kind: text, text: '{{ steps.a.txt }}'}", 4, "`a.txt`", "text"),
    ("  - {name: a, kind: text, text: '{{ steps.b.text }}'}\n  - {name: b, kind: text, text: x}", 3,
     "never runs before", "move"),
    ("  - {name: a, kind: text, text: x}\n  - {name: b, kind: text, text: '{{ a }}'}", 4, "no variable",
     "steps.a.text"),
    ("  - {name: a, kind: text, text: x, then: c}\n  - {name: b, kind: text, text: x}\n"
     "  - {name: c, kind: text, text: x}", 4, "nothing leads to the step `b`", "route"),
    ("  - {name: a, kind: text, text: x}\n  - {name: b, kind: text, text: x, then: a}", 4,
     "never ends: a -> b -> a", "retry"),
    ("  - {name: a, kind: text, text: x, then: bb}\n  - {name: b, kind: text, text: x}", 3, "`bb`, which is no step",
     "`b`"),
    ("  - {name: a, kind: text, text: x}\n  - {name: a, kind: text, text: y}", 4, "two steps are called `a`", "a_2"),
    ("  - {name: end, kind: text, text: x}", 3, "no step can be called `end`", "meaning"),
    ("  - {name: a, kind: text, text: '{{ input'}", 3, "`a`", ""),
    ("  - {name: a, kind: text, text: '{{ input.__class__ }}'}", 3, "__class__", "closed"),
    ("  - {name: a, kind: text, text: '{{ input | upperr }}'}", 3, "upperr", "`upper`"),
    ("  - {name: a, kind: text, text: x, when: 'input ='}", 3, "`a`", ""),
    ("  - {name: a, kind: prompt, model: gtp, user: x}", 3, "model `gtp`", "`gpt`"),
    ("  - {name: a, kind: classify, task: intencion}", 3, "task `intencion`", "`intenciones`"),
    ("  - {name: a, kind: classify, model: gpt, labels: [x]}", 3, "two `labels`", ""),
    ("  - {name: a, kind: classify, model: gpt, labels: [x, y], route: {z: end}}", 3, "never gives `z`", ""),
    ("  - {name: a, kind: prompt, model: gpt}", 3, "`system` and `user`, or with a `prompt` file", ""),
    ("  - {name: a, kind: prompt, model: gpt, prompt: no.yaml}", 3, "no file no.yaml", "project"),
    ("  - {name: a, kind: prompt, model: gpt, prompt: {system: '{{ tno }}', inputs: {tono: {}}}}", 3, "tno", "tono"),
    ("  - {name: a, kind: prompt, model: gpt, prompt: {system: '{{ tono }}', inputs: {tono: {}}}}", 3,
     "does not give its prompt's input `tono`", "values"),
    ("  - {name: a, kind: check}", 3, "checks nothing", "cites"),
    ("  - {name: a, kind: parse, text: x}", 3, "parses by one of", ""),
    ("  - {name: a, kind: parse, text: x, regex: '('}", 3, "not a pattern", "correct"),
    ("  - {name: a, kind: python, function: 'no:f'}", 3, "no.py", ""),
    ("  - {name: a, kind: http, url: 'https://{{ input }}/x'}", 3, "which host", "https://HOST/"),
    ("  - {name: a, kind: http, url: 'file:///etc/passwd'}", 3, "which host", ""),
    ("  - {name: a, kind: http, url: 'https://api.example{{ input }}/x'}", 3, "which host", ""),
    ("  - {name: a, kind: http, url: 'https://u:p@api.example/x'}", 3, "password", "env:"),
    ("  - {name: a, kind: http, url: 'https://api.example/', headers: {Authorization: Bearer abc}}", 3,
     "holds a secret", "env:NAME"),
    ("  - {name: a, kind: http, url: 'https://api.example/', headers: {X-A: '{{ input }}'}}", 3, "cannot be sent", ""),
    ("  - {name: a, kind: http, url: 'https://api.example/', method: POST, retry: {times: 1}}", 3, "twice",
     "idempotent"),
    ("  - {name: a, kind: text, text: x, retry: {times: 1}}", 3, "tried again", ""),
    ("  - {name: a, kind: parallel, steps: [{name: b, kind: text, text: x, then: end}]}", 3, "runs beside", "group"),
    ("  - {name: a, kind: parallel, steps: [{name: b, kind: text, text: x}, {name: d, kind: text, "
     "text: '{{ steps.b.text }}'}]}", 3, "never runs before", ""),
    ("  - {name: a, kind: text, text: x}\n  - {name: b, kind: check, min_words: 1, on_fail: {retry: zz}}", 4,
     "retries `zz`", "before the check"),
    ("name: c\nsteps: []\n", 2, "steps", ""),
    ("name: c\nsteps:\n  - {name: a, kind: text, text: x}\noutput: '{{ steps.z.text }}'\n", 4, "`z`", ""),
])
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_chain(written(tmp_path, text), tmp_path, models=["gpt"], tasks=["intenciones"])
    assert f"c.yaml:{line}:" in told.value.message, told.value
    assert says in told.value.message
    assert hint in told.value.hint


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_chain(tmp_path / "no.yaml")
    for raw in (b"", b"\xff\xfe", b"- a", b"name: [", b"name: c\nsteps: &a [*a]\n"):
        (tmp_path / "c.yaml").write_bytes(raw)
        with pytest.raises(ConfigError) as told:
            load_chain(tmp_path / "c.yaml")
        assert "bucle.yaml" not in told.value.hint
    with pytest.raises(ConfigError):
        load_chain(tmp_path)


def test_a_chain_is_read_whole_with_the_hashes_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "faq.yaml").write_text("name: faq\r\nsystem: Hola.\r\nuser: '{{ input }}'\r\n", "utf-8")
    (tmp_path / "iban.json").write_text('{"type": "object", "required": ["iban"]}', "utf-8")
    (tmp_path / "own.py").write_text("def f(text):\n    return text[::-1]\n", "utf-8")
    path = written(tmp_path, "  - {name: a, kind: prompt, model: gpt, prompt: prompts/faq.yaml}\n"
                             "  - {name: b, kind: python, function: 'own:f'}\n"
                             "  - {name: d, kind: parse, json_schema: iban.json}\n")
    spec = load_chain(path, tmp_path)
    assert sorted(spec.files) == ["iban.json", "own.py", "prompts/faq.yaml"]
    body = json.loads(spec.model_dump_json())
    assert body["steps"][0]["prompt"]["system"] == "Hola."
    assert body["steps"][2]["json_schema"] == {"type": "object", "required": ["iban"]}
    assert read_chain(body) == spec
    (tmp_path / "own.py").write_text("def f(text):\n    return text\n", "utf-8")
    assert load_chain(path, tmp_path).files != spec.files, "an edit makes another candidate"
    for name, says in (("../out.json", "outside|no file"), ("/etc/hostname", "outside|no file")):
        with pytest.raises(ConfigError, match=says):
            load_chain(written(tmp_path, f"  - {{name: a, kind: parse, json_schema: {name}}}"), tmp_path)


def test_a_chain_built_in_python_is_the_one_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "  - {name: a, kind: retrieve, k: 3}\n  - name: g\n    kind: parallel\n    steps:\n"
                             "      - {name: x, kind: text, text: '{{ steps.a.text }}'}\n")
    built = chain("c", step("retrieve", "a", k=3),
                  step("parallel", "g", steps=[step("text", "x", text="{{ steps.a.text }}")]))
    assert load_chain(path) == built
    for make, says in ((lambda: step("retreive", "a"), "Did you mean `retrieve`"),
                       (lambda: step("retrieve", "a", kk=3), "Did you mean `k`"),
                       (lambda: step("retrieve", "a b"), "name"),
                       (lambda: chain("c", step("text", "a", text="{{ steps.zz.text }}")), "zz")):
        with pytest.raises(ConfigError, match=says):
            make()


def test_what_a_chain_needs_is_said_before_it_runs(tmp_path: Path) -> None:
    for spec, says in ((chain("c", step("prompt", "a", model="gpt", user="x")), "the model `gpt`"),
                       (chain("c", step("retrieve", "a")), "no index"),
                       (chain("c", step("parse", "a", json_schema="iban.json")), "iban.json, which was not read"),
                       (chain("c", step("python", "a", function="m:f")), "no project")):
        with pytest.raises(ConfigError, match=says):
            Chain(spec, ChainEnv())


def test_own_python_runs_with_trust_only_and_as_it_was_when_fitted(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    project, out = tmp_path / "project", tmp_path / "out"
    project.mkdir()
    out.mkdir()
    code = "from pathlib import Path\nPath({!r}).write_text('x')\ndef f(text):\n    return {!r}\n"
    (project / "own.py").write_text(code.format(str(ran), "before"))
    spec = chain("c", step("python", "a", function="own:f"), folder=project)
    params = {"chain": spec.model_dump(mode="json")}
    common: dict[str, Any] = {"labels": (), "params": params, "seed": 1, "kind": "answer", "project": project}
    fit = {"out": out, "work": out, "train": (), "validation": (), "report": lambda done, total, note="": None}
    with pytest.raises(ConfigError, match="nobody has said that it may run"):
        ChainTechnique().fit(FitContext(**fit, **common))
    assert not ran.exists()
    ChainTechnique().fit(FitContext(**fit, **common, trusted=True))
    (project / "own.py").write_text(code.format(str(ran), "after"))
    loaded = ChainTechnique().load(out, LoadContext(**common, trusted=True))
    assert loaded.predict(["x"])[0].output == "before"
    with pytest.raises(ConfigError, match="nobody has said"):
        ChainTechnique().load(out, LoadContext(**common))
    with pytest.raises(ConfigError, match="has changed"):
        ChainTechnique().fit(FitContext(**fit, **common, trusted=True))
    wrong = chain("c", step("python", "a", function="own:f", args={"txt": "x"}), folder=project)
    with pytest.raises(ConfigError, match="other arguments"):
        Chain(wrong, ChainEnv(project=project, trusted=True))


def test_own_objects(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: 'int' = 1\n"
                                     "class B:\n    made = A()\n")
    assert own_object("own:B.made", tmp_path, True).x == 1
    assert own_object("own:A", tmp_path, True) is own_object("own:A", tmp_path, True)
    (tmp_path / "bad.py").write_text("import json\n1/0")
    for name, says in (("own:C", "has no"), ("bad:f", "does not run: ZeroDivisionError"), ("../own:A", "does not name"),
                       ("own", "does not name"), ("none:f", "needs the file")):
        with pytest.raises(ConfigError, match=says):
            own_object(name, tmp_path, True)


def test_the_graph_can_be_looked_at() -> None:
    spec = chain("c", step("classify", "tema", model="gpt", labels=["a", "b"], route={"a": "x", "b": "z"}),
                 step("parallel", "x", steps=[step("text", "p", text="1")]),
                 step("check", "ok", min_words=1, on_fail={"retry": "x", "go": "z"}),
                 step("text", "z", text='di "hola" [1]'), about="Prueba")
    text, graph = as_text(spec), as_mermaid(spec)
    assert "1. tema (classify)" in text
    assert "-> z  (b)" in text
    assert "<- x  (fails, at most 1 times)" in text
    assert graph.startswith("flowchart TD\n")
    assert 's0 -->|"b"| s3' in graph
    assert 's2 -.->|"fails, 1x"| s1' in graph


def test_templates_do_not_reach_out() -> None:
    for text in ("{{ ''.__class__.__mro__ }}", "{% include 'x' %}", "{{ input.format(input) }}", "{{ steps._x }}"):
        with pytest.raises(BucleError):
            chain("c", step("text", "a", text=text))
    slow = chain("c", step("text", "a", text="{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}"
                           "{% endfor %}"))
    found = Chain(slow, ChainEnv()).predict(["x"])[0]
    assert found.error_kind == "TemplateError"
    assert found.ms < 3500
