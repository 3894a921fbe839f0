"""The story of a real run: every section of the report filled from its figures, in both languages; the studio on it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import bucle

from bucle.loop.api import Project
from bucle.loop.report import STAGES, read_story, render_report
from bucle.loop.source import Source

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def story(finished: Path) -> dict[str, Any]:
    project = Project(finished)
    found = project.story()
    project.close()
    return found


def test_every_part_is_filled_from_the_run(story: dict[str, Any]) -> None:
    read = read_story(story)
    assert {step.stage for step in read.steps} == set(STAGES)
    assert read.data is not None
    assert read.data.documents
    assert {one.reason for one in read.data.quarantined} == {"empty", "encrypted", "corrupt"}
    assert [one.kept for one in read.data.removed] == ["web/wifi-problemas.html"]
    assert all(task.rows and task.train and task.test for task in read.data.tasks)
    assert all(one.label and one.proposed and one.p for task in read.data.tasks for one in task.suspects)
    assert any(len(model.loss_curve) > 1 and model.bits_per_byte_after for model in read.models)
    assert {c.task for c in read.comparisons} == {"intenciones", "respuestas"}
    for comparison in read.comparisons:
        assert comparison.said.es != comparison.said.en
        assert comparison.samples
        assert all(c.value is not None and c.low is not None and c.ms_p95 for c in comparison.candidates)
    assert read.comparisons[0].confusion is not None
    assert read.forgetting
    assert {gate.task for gate in read.gates} == {"intenciones", "respuestas"}
    assert all(bool(check.note) == bool(check.said.es) for gate in read.gates for check in gate.checks)
    assert [r.version for r in read.releases] == [1, 2]
    assert read.releases[1].aliases == ["production"]
    assert [move.release for move in read.alias_history] == [r.id for r in read.releases]
    assert read.serve is not None
    assert read.serve.requests == sum(row.requests or 0 for row in read.serve.by_route)
    assert read.monitor is not None
    assert len(read.monitor.windows) > 20
    assert read.monitor.alerts
    assert all(alert.said.es and alert.said.es != alert.said.en for alert in read.monitor.alerts)
    assert read.feedback is not None
    assert read.feedback.dataset is not None
    added = sum((change.v2 or 0) - (change.v1 or 0) for change in read.feedback.dataset.by_label.values())
    assert added == read.feedback.dataset.added
    assert read.gain is not None
    assert read.gain.n
    assert read.gain.slices
    assert read.why is not None
    kinds = {link.kind for link in read.why.chain}
    assert {"trace", "release", "candidate", "dataset", "split", "gate"} <= kinds
    assert all(link.said.es for link in read.why.chain if link.kind in {"release", "candidate", "dataset", "split"})


def test_the_report_shows_every_section_in_both_languages(story: dict[str, Any]) -> None:
    html = render_report(story)
    assert 'class="empty"' not in html
    for title in ("Calidad e incertidumbre", "Aciertos y confusiones", "Curva de aprendizaje", "Producción día a día",
                  "Filas por etiqueta", "Mejora por grupo", "Quality and uncertainty", "Gain by slice"):
        assert title in html
    assert html.count('class="plot"') >= 8
    for both in (story["recommendation"]["said"], story["monitor"]["alerts"][0]["said"]):
        for text in both.values():
            assert text.splitlines()[0].split("“")[0].split("«")[0][:40] in html
    assert not re.search(r">(None|nan|\{\w+\})<", html)


def test_what_an_alert_says_to_run_runs(story: dict[str, Any], finished: Path) -> None:
    for alert in story["monitor"]["alerts"]:
        verb = shlex.split(alert["next"])
        assert verb[0] == "bucle"
        done = bucle(*verb[1:], cwd=finished)
        assert done.returncode == 0, alert["next"] + done.stderr
        assert done.stdout.strip()


def test_the_studio_builds_the_story_once_until_something_happens(copy: Callable[[], Path]) -> None:
    project = Project(copy())
    source = Source(project.workspace, project.releases()[-1])
    first = source.story()
    assert source.story() is first
    trace = source.traces(limit=1)[0]
    project.rate(trace.id, rating=-1, by="somebody new")
    assert source.story() is not first
    project.close()


def test_an_answer_cites_document_and_place(copy: Callable[[], Path]) -> None:
    from starlette.testclient import TestClient

    project = Project(copy())
    asked = next(t for t in project.traces(route="respuestas", newest_first=True) if t.output and t.chunks)
    with TestClient(project.app(), base_url="http://localhost") as client:
        body = {"model": "respuestas", "messages": [{"role": "user", "content": asked.input}]}
        reply = client.post("/v1/chat/completions", json=body).json()
    places = reply["bucle"]["citations"]
    assert places
    assert all(place.split()[0].partition("/")[0] in {"notas", "web", "docx", "correo", "pdf"} for place in places)
    assert f"[1] {places[0]}" in reply["choices"][0]["message"]["content"]
    assert all(chunk.startswith("chunk:") for chunk in reply["bucle"]["chunks"])
    project.close()
