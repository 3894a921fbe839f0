"""The configuration: the environment wins within the same limits, and no option is without a reader."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from bucle.core import choosing, config, serving, sources, tasks
from bucle.core.config import load_project
from bucle.core.errors import ConfigError

SOURCE = Path(__file__).parents[2] / "src" / "bucle"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "bucle.yaml").write_text(
        "project: a\nseed: 3\nserve: {port: 80, redact: false}\ntasks: {t: {kind: classify, data: x}}\n"
    )
    return tmp_path


def test_the_environment_wins_over_the_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SEED": "11", "THREADS": "2", "PORT": "0", "HOST": "0.0.0.0"}.items():  # noqa: S104
        monkeypatch.setenv(f"BUCLE_{name}", value)
    found = load_project(project)
    assert (found.seed, found.threads, found.serve.port, found.serve.host) == (11, 2, 0, "0.0.0.0")  # noqa: S104
    assert not found.serve.redact


def test_an_empty_variable_says_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEED", "THREADS", "PORT", "HOST"):
        monkeypatch.setenv(f"BUCLE_{name}", "")
    assert (load_project(project).seed, load_project(project).serve.port) == (3, 80)


@pytest.mark.parametrize(("name", "value"), [
    ("BUCLE_SEED", "siete"), ("BUCLE_SEED", "-1"), ("BUCLE_SEED", "²"), ("BUCLE_THREADS", "1.5"),
    ("BUCLE_PORT", "70000"), ("BUCLE_PORT", "9" * 5000), ("BUCLE_PORT", "٣"),
])
def test_a_variable_that_cannot_be_meant_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=name) as caught:
        load_project(project)
    assert caught.value.hint == f"unset {name}"


# By what names the code holds a section when it reads a field of it: `id`, `path` or `test` alone would prove nothing.
READERS = {
    "FolderSource": "source", "WebSource": "source", "StoreSource": "source", "SqlSource": "source",
    "HuggingFaceSource": "source", "_Common": "source", "_Remote": "source", "Quality": "quality", "Rows": "rows|_rows",
    "Names": "names", "Data": "data|policy", "Split": "split|settings", "ClassifyTask": "task|tasks|t",
    "AnswerTask": "task|tasks|t", "Preferences": "preferences|settings", "PretrainModel": "model|settings|m",
    "LocalModel": "model|settings|m|spec", "EncoderModel": "model|settings|m|attrs", "OpenAIModel": "model|settings|m",
    "Served": "model|settings|m|spec",
    "RemoteModel": "model|settings|m", "AnthropicModel": "model|settings|m", "ProviderModel": "model|settings|m",
    "RouteRule": "rule|rules", "Target": "target|t", "Canary": "canary|rule", "Cache": "cache|settings|rule",
    "Allowance": "allowance|rules", "GuardRule": "rule", "Guards": "guards|rules", "Traces": "traces|settings",
    "Choose": "choose", "Serve": "serve|settings", "MonitorRules": "monitor|rules", "Replay": "replay|settings|wanted",
    "Project": "config|project",
    "_Task": "task|tasks|t|settings", "TextTask": "task|settings", "RetrieveTask": "task|settings",
    "ModelFacts": "known|facts|own|said|found|model|self|one|entry|there", "Constraints": "constraints|wanted",
    "Costs": "costs|settings|_costs", "Budget": "budget|_budget", "Judge": "settings|judge|judges",
    "RedTeam": "settings|redteam", "Forgetting": "forgetting|settings",
    "RerankerModel": "model|settings|m", "Retrieval": "retrieval|settings", "External": "external|settings|spec",
}
MODULES = (config, sources, tasks, choosing, serving)
BY_NAME = {"ClassifyTask", "AnswerTask", "TextTask", "RetrieveTask", "Constraints", "EncoderModel"}
"""Sections of which some fields are read by getattr over a list of names: those stand in the code as constants."""
SHOWN = {"ModelFacts.active", "ModelFacts.checked"}
"""What `bucle choose models --json` shows of a model, whole, and nothing decides by."""


def options() -> Iterator[tuple[str, str]]:
    for name, section in {k: v for module in MODULES for k, v in vars(module).items()}.items():
        if (
            isinstance(section, type)
            and issubclass(section, BaseModel)
            and section.__module__ in [module.__name__ for module in MODULES]
        ):
            yield from ((name, field) for field in section.model_fields)


def reads() -> set[tuple[str, str]]:
    """(what holds it, attribute) of every attribute that the code reads, also by getattr with a constant name."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        inside = path in [Path(str(module.__file__)) for module in MODULES]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(("by name", node.value))
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                holder, attribute = node.value, node.attr
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                holder, attribute = node.args[0], str(getattr(node.args[1], "value", ""))
            else:
                continue
            holder = holder.value if isinstance(holder, ast.Subscript) else holder
            name = re.findall(r"\w+", ast.unparse(holder))[-1:]
            if not inside:
                found.update((owner, attribute) for owner in name)
            elif name == ["self"] and attribute.endswith("_days"):  # the windows, which MonitorRules gives as timedelta
                found.add(("rules", attribute))
    return found


def test_every_option_has_a_reader() -> None:
    found = reads()
    unread = [
        f"{section}.{field}" for section, field in options()
        if section != "Quality" and f"{section}.{field}" not in SHOWN  # read by name: the next test
        and not any(field == attribute and re.fullmatch(READERS[section], holder) for holder, attribute in found)
        and not (section in BY_NAME and ("by name", field) in found)
    ]
    assert unread == [], "no option without a reader (or its section is held by a name that READERS lacks)"


def test_every_quality_threshold_is_measured() -> None:
    from bucle.core.records import Block, Document
    from bucle.data.quality import measure

    text = "\n".join(f"La línea {n} dice algo distinto de las demás, y bastante largo." for n in range(40))
    document = Document(
        id="d", path="a.txt", sha256="", media_type="text/plain", title="", language="es", blocks=(Block(text=text),)
    )
    assert set(measure(document)) == set(config.Quality.model_fields)


def test_the_search_for_readers_can_fail() -> None:
    found = reads()
    assert len(list(options())) > 60
    assert not any(attribute in ("nobody_reads_this", "model_config") for _, attribute in found)
    assert ("config", "thread") not in found


def test_shorthands_are_read(tmp_path: Path) -> None:
    (tmp_path / "bucle.yaml").write_text(
        "project: p\ndata: {documents: [docs, {kind: sql, url: 'sqlite:///a.db', query: select 1, text: body}]}\n"
    )
    sources_read = load_project(tmp_path).data.documents
    assert sources_read is not None
    folder, query = sources_read
    assert (folder.kind, query.kind) == ("folder", "sql")
    assert folder.kind == "folder"
    assert folder.path == "docs"
    assert query.kind == "sql"
    assert query.text == ("body",)


@pytest.mark.parametrize(("line", "told"), [
    ("data: {documents: {kind: webb, url: x}}", "`data.documents.0.kind` cannot be `webb`"),
    ("data: {documents: docs, personal_data: {secret: keep}}", "`secret`"),
    ("language: es", "a project needs `tasks:`, or `data.documents` to start from, or `models:` to serve"),
])  # fmt: skip
def test_what_cannot_be_meant_is_told(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "bucle.yaml").write_text(f"project: p\n{line}\n")
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_project(tmp_path)
