"""docs/interop.md: every file in it is written as it stands and runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bucle.core.config import load_project
from bucle.core.ports import FitContext, LoadContext
from bucle.customise.external import ExternalTechnique
from bucle.customise.external.technique import external_params

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"
FACTS = {"luz": "La cuota de la luz es de 19 euros.", "tienda": "La tienda abre a las diez.",
         "baja": "La baja se pide con quince días de antelación."}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    for name, body in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL):
        (tmp_path / name).write_text(body, "utf-8")
    (tmp_path / "docs").mkdir()
    for name, text in FACTS.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# {name}\n\n{text}\n", "utf-8")
    yield tmp_path
    if (tmp_path / "chroma").exists():
        from chromadb.api.shared_system_client import SharedSystemClient

        SharedSystemClient.clear_system_cache()


def test_the_objects_of_the_page_answer(project: Path) -> None:
    chains = load_project(project).chains
    assert list(chains) == ["lang", "llama", "plain"]
    for name, settings in chains.items():
        assert not isinstance(settings, str)
        out = project / f"out-{name}"
        out.mkdir()
        params = external_params(settings, project)
        ExternalTechnique().fit(FitContext(out=out, work=out, train=(), validation=(), labels=(), params=params, seed=7,
                                           report=lambda done, total, note="": None, project=project, trusted=True))
        made = ExternalTechnique().load(out, LoadContext(labels=(), params=params, project=project, trusted=True))
        said = made.predict(["¿Cuándo abre la tienda?", "¿Quién ganó la liga?"])
        assert [p.error for p in said] == ["", ""]
        assert [p.output for p in said] == [FACTS["tienda"], ""], name
        assert said[0].citations == ("tienda.md",)
        assert said[1].abstained


@pytest.mark.torch
@pytest.mark.slow
def test_the_page_is_a_project_that_runs(project: Path) -> None:
    import subprocess
    import sys

    rows = [{"question": ask.format(name), "answer": text, "document": f"{name}.md"} for name, text in FACTS.items()
            for ask in ("¿Qué hay de {}?", "Dime algo de {}", "Información de {}", "Sobre {}", "¿Y {}?")]
    (project / "preguntas.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = yaml.safe_load((project / "bucle.yaml").read_text("utf-8"))
    settings["choose"] = {"candidates": ["quote", "retrieve", "external"]}
    (project / "bucle.yaml").write_text(yaml.safe_dump(settings), "utf-8")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bucle", "run", *args], cwd=project, capture_output=True,
                              text=True, timeout=200)

    refused = run()
    assert refused.returncode == 2
    assert "nobody has said that it may run" in refused.stderr
    done = run("--trust")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("lang", "llama", "plain"):
        assert f"score preguntas chain/{name}" in done.stdout + done.stderr
    shutil.rmtree(project / "chroma")
    again = run("--trust")
    assert again.returncode == 0, again.stdout + again.stderr
    assert (project / "chroma").exists(), "what the store lost was put back"
