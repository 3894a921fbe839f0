"""The Python API: a project and what one does with it. The command line is a thin skin over these methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import Hit, Report
from bucle.core.records import Alert, Feedback, Node, Prediction, Trace
from bucle.execute import Display, QuietDisplay, StepRecord
from bucle.loop import forecast, hear, indexing, measure, run, story, tuning, watch, why
from bucle.loop.opening import open_candidate, predict_as
from bucle.loop.run import RunResult
from bucle.loop.serving import app_for
from bucle.loop.source import Source
from bucle.loop.workspace import Workspace
from bucle.release import production, releases, rollback

__all__ = ["Project"]


class Project:
    """The project in a folder with a bucle.yaml.

    Every method raises BucleError (with `message` and `hint`) for what a user can put right.
    """

    def __init__(self, folder: str | Path = ".") -> None:
        self.workspace = Workspace.open(folder)

    @property
    def config(self) -> Any:
        """bucle.yaml as a frozen record."""
        return self.workspace.config

    def run(self, *, until: run.Stage = "all", display: Display | None = None) -> RunResult:
        """Run the loop up to a stage (`data`, `models`, `choose`, `release`, `all`); finished steps are reused."""
        return run.run(self.workspace, display or QuietDisplay(), until=until)

    def records(self) -> list[StepRecord]:
        """The steps of the latest finished run, in order."""
        return story.latest_records(self.workspace.ledger)

    def story(self) -> dict[str, Any]:
        """What the latest run found, JSON-ready."""
        return story.build_story(self.workspace, self.records())

    def report(self, *, language: str | None = None, output: str | Path | None = None) -> tuple[dict[str, Any], Path]:
        """The story and the path of its HTML report; written to `output` as well, opening in `language`, where
        given."""
        found, path = story.save_report(self.workspace, self.records())
        if language is None and output is None:
            return found, path
        from bucle.loop.choice_story import with_outputs
        from bucle.loop.report import render_report

        target = Path(output) if output else path
        whole = with_outputs(self.workspace, found, self.records())
        page = render_report(whole, language=language or self.config.language)
        target.write_text(page, encoding="utf-8")
        return found, target

    def forecast(self, *, display: Display | None = None) -> dict[str, Any]:
        """What a run would take, as ranges: rows, tokens, dollars, minutes. Only the data stage is run."""
        return forecast.forecast(self.workspace, display or QuietDisplay())

    def ladder(self) -> dict[str, Any]:
        """The candidates that `choose` would compare, cheapest first, and why some are ruled out before a token is
        spent; see `bucle.loop.catalogue.candidates`."""
        from bucle.loop.catalogue import candidates

        return candidates(self.workspace)

    def costs(self, **settings: Any) -> dict[str, Any]:
        """What each candidate costs a request, a thousand and a month, and where hosting breaks even with an API; see
        `bucle.loop.catalogue.costs` for the settings."""
        from bucle.loop.catalogue import costs

        return costs(self.workspace, **settings)

    def count_tokens(self, text: str, model: str, *, completion: str = "") -> dict[str, Any]:
        """Tokens of a prompt and a completion under a model, apart; see `bucle.loop.catalogue.count`."""
        from bucle.loop.catalogue import count

        return count(text, model, completion=completion, ws=self.workspace)

    def tune(self, task: str, name: str, *, display: Display | None = None) -> dict[str, Any]:
        """Fit one candidate (`lora`, `lora/nano`) on the training rows and measure it on the held-out ones."""
        return tuning.tune(self.workspace, task, name, display or QuietDisplay())

    def show_batch(self, task: str, name: str, rows: int, *, display: Display | None = None) -> dict[str, Any]:
        """The exact rendered rows that a fine-tuning technique trains on, trained tokens between ⟦ and ⟧."""
        return tuning.batch(self.workspace, task, name, rows, display or QuietDisplay())

    def folder_of(self, node: str) -> Path:
        """A read-only folder with a node's files: a model, an adapter, an index."""
        return self.workspace.ledger.materialise(self.workspace.ledger.get(node))

    def card(self, release: str = "production") -> str:
        """A release's card in Markdown."""
        node = measure.release_called(self.workspace, release)
        return self.workspace.ledger.read(node, "card.md").decode()

    def app(self, release: str = "production", *, studio: Callable[[Any], Any] | None = None) -> Any:
        """The ASGI app that serves a release (before the first, the models alone); `studio(source)` makes the app for
        all other paths."""
        alone = release == "production" and not self.workspace.ledger.alias(release) and self.workspace.config.models
        node = None if alone else measure.release_called(self.workspace, release)
        source = Source(self.workspace, node)
        return app_for(self.workspace, node, studio=studio(source) if studio else None,
                       production=release == "production")

    def windows(self) -> list[dict[str, Any]]:
        """Each route's windows with their figures."""
        return watch.windows_of(self.workspace, self.workspace.traces.traces())

    def rate(
        self, trace: str, *, rating: int | None = None, correction: str | None = None, by: str = "api", reason: str = ""
    ) -> Feedback:
        """Store a rating (1 or -1) and/or a correction beside a trace. Raises NotFound or BadInput."""
        return hear.rate(self.workspace, trace, rating=rating, correction=correction, by=by, reason=reason)

    def import_feedback(self, path: str | Path, *, by: str = "import") -> dict[str, int]:
        """Feedback from a file with columns trace, rating, correction, by; returns counts."""
        return hear.import_file(self.workspace, Path(path), by=by)

    def learn(self, task: str, *, display: Display | None = None) -> RunResult:
        """The next release from all feedback on a classify task: rows, refit, gate against production, release."""
        return run.learn(self.workspace, display or QuietDisplay(), task)

    def preview_feedback(self, task: str) -> dict[str, Any]:
        """The rows that feedback would add to a task's data now, and what is left out and why."""
        return hear.preview(self.workspace, task)

    def predict(self, task: str, inputs: Sequence[str], *, access: Sequence[str] = ()) -> list[Prediction]:
        """Answers of the production candidate of `task` to somebody who holds the labels `access`: what needs any other
        is neither found nor quoted, counted or named."""
        tasks = production(self.workspace.ledger).attrs["tasks"]
        if task not in tasks:
            raise BadInput(f"Production serves no task `{task}`.", f"It serves: {', '.join(tasks)}.")
        return predict_as(open_candidate(self.workspace, tasks[task], serving=True), inputs, frozenset(access))

    def search(self, question: str, *, k: int = 10, access: Sequence[str] = (), where: Mapping[str, str] | None = None,
               version: str = "", weight: float | None = None, everything: bool = False) -> list[Hit]:
        """The passages of the index in force (or of a past `version`) that best fit a question, best first, for a
        holder of the labels `access`, as labels and documents are today; `everything` is for the team's own eyes: no
        label counts, and a past version is seen whole. See `bucle.loop.indexing.search`."""
        return indexing.search(self.workspace, question, k=k, access=frozenset(access), where=where, version=version,
                               weight=weight, everything=everything)

    def evaluate(
        self, task: str, data: str | Path, *, release: str = "production", gates: Sequence[str] | None = None,
        report: Report | None = None,
    ) -> dict[str, Any]:
        """A release's candidate on a file of fresh rows, beside a TF-IDF baseline fitted on the same training rows;
        `gates` (None: the task's own) are checked on it."""
        return measure.evaluate_file(self.workspace, task, Path(data), release, gates=gates, report=report)

    def evaluate_retrieval(
        self, task: str = "", data: str | Path | None = None, *, display: Display | None = None, **settings: Any
    ) -> dict[str, Any]:
        """How well a candidate finds, cites and abstains, on a file or the held-out questions, and which stage lost
        each question that failed; see `bucle.loop.retrieval_stage` for the settings and the result."""
        from bucle.execute import Runner, project_lock
        from bucle.loop.retrieval_stage import retrieval_stage

        ws, shown = self.workspace, display or QuietDisplay()
        path = Path(data) if data is not None else None
        with project_lock(ws.ledger.folder), shown:
            return retrieval_stage(ws, Runner(ws.ledger, shown), task, path, **settings)

    def releases(self) -> list[Node]:
        return releases(self.workspace.ledger)

    def rollback(self, to: str = "", *, by: str = "api", reason: str = "") -> Node:
        """Move `production` to an earlier release (the one before, or version `to`)."""
        return rollback(self.workspace.ledger, to=to, by=by, reason=reason)

    def traces(self, **filters: Any) -> list[Trace]:
        """Stored traces; see `TraceStore.traces` for the filters."""
        return self.workspace.traces.traces(**filters)

    def add_feedback(self, items: Sequence[Feedback]) -> int:
        """Store ratings and corrections; returns how many were new."""
        return self.workspace.traces.add_feedback(items)

    def alerts(self) -> list[Alert]:
        """The alerts that the project's rules raise over every stored trace."""
        return watch.alerts_now(self.workspace, self.workspace.traces.traces())

    def why(self, name: str) -> list[dict[str, Any]]:
        """Everything behind a trace or node, nearest first."""
        return why.why(self.workspace, name)

    def impact(self, name: str) -> list[dict[str, Any]]:
        """Everything made from a document, example or node, forward to answers."""
        return why.impact(self.workspace, name)

    def close(self) -> None:
        self.workspace.close()
