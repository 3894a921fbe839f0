"""Proposals by a machine: TF-IDF on what is labelled so far, the production candidate, or a chat model of the project.

They are stored as such and never become a training target: only a person's word does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.core.ids import content_id
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Annotation, Candidate, Example, Prediction
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.loop.label import Labelling

__all__ = ["prelabel", "production_scores"]


def prelabel(
    labelling: Labelling, using: str = "tfidf", *, limit: int = 1_000, min_score: float = 0.0
) -> dict[str, Any]:
    """Proposals for up to `limit` rows that nobody labelled, in the order of the queue's lot, where the machine is at
    least `min_score` sure. `using` is `tfidf`, `production` or the name of a chat model in bucle.yaml.

    Raises BadInput where there is nothing to learn from, or no such machine.
    """
    from bucle.data.label import effective
    from bucle.data.label.queue import chance_of
    from bucle.ledger import now

    if labelling.kind != "classify":
        hint = "bucle data bootstrap drafts questions and answers" if labelling.kind == "answer" else (
            "A row whose `status` is `draft` in its file proposes its reference"
        )
        raise BadInput("Only labels can be proposed, not answers and texts.", hint)
    ws, task = labelling.ws, labelling.task
    items, rows = labelling.store.annotations(task), labelling.rows()
    spoken = {row for row, one in effective(items).items() if one.status != "prelabel"}
    seed = ws.config.seed
    wanted = [name for name, row in rows.items() if row.target is None and name not in spoken]
    wanted = sorted(wanted, key=lambda name: chance_of(seed, "random", name))[:limit]
    machine, said = _said(labelling, using, wanted, rows)
    before = {item.row: item.label for item in items if item.kind == "prelabel" and item.by == machine}
    at, known, made, unsure = now(), set(labelling.labels()), [], 0
    for name, prediction in zip(wanted, said, strict=True):
        sure = prediction.score is None or prediction.score >= min_score
        if prediction.error or prediction.abstained or not sure or prediction.output not in known:
            unsure += 1
        elif before.get(name) != prediction.output:
            note = "" if prediction.score is None else f"score {prediction.score:.3f}"
            body = {"task": task, "row": name, "by": machine, "label": prediction.output, "at": at}
            made.append(Annotation(id=content_id("annotation", body), kind="prelabel", note=note, **body))
    stored = labelling.store.add(made)
    return {"task": task, "by": machine, "asked": len(wanted), "proposed": stored, "unsure": unsure}


def _said(
    labelling: Labelling, using: str, wanted: Sequence[str], rows: Mapping[str, Example]
) -> tuple[str, Sequence[Prediction]]:
    """The machine's name and its answers."""
    ws, task = labelling.ws, labelling.task
    texts = [rows[name].input for name in wanted]
    if using == "tfidf":
        ranker = labelling.ranker()
        chances, names = ranker.predict(labelling._known())
        if chances is None:
            raise BadInput("There are not yet ten labels of two kinds to learn from.", f"bucle label start {task}")
        best = [chances[ranker.place[name]] for name in wanted]
        return "tfidf", [Prediction(output=names[int(one.argmax())], score=float(one.max())) for one in best]
    if using == "production":
        from bucle.loop.opening import open_candidate
        from bucle.release import production

        release = production(ws.ledger)
        if task not in release.attrs["tasks"]:
            raise BadInput(f"Production serves no task `{task}`.", f"bucle label prelabel {task} --using tfidf")
        candidate = str(release.attrs["tasks"][task])
        name = f"{ws.ledger.get(candidate).attrs['name']} v{release.attrs['version']}"
        return name, open_candidate(ws, candidate).predict(texts)
    return using, _chat(labelling, using, texts)


def _chat(labelling: Labelling, using: str, texts: Sequence[str]) -> Sequence[Prediction]:
    from bucle.customise.registry import technique
    from bucle.loop.model_steps import chat_model

    ws = labelling.ws
    chats = [name for name, model in ws.config.models.items() if model.kind != "encoder"]
    if using not in chats:
        known = ", ".join(["tfidf", "production", *chats])
        raise BadInput(f"There is no machine called `{using[:80]}`.", f"Known: {known}.")
    labels = labelling.labels()
    if len(labels) < 2:
        raise BadInput("A chat model chooses among labels, and there are none yet.", "Add `labels:` to the task.")
    nodes = [node for node in ws.ledger.nodes("base_model") if node.attrs.get("name") == using]
    if not nodes:
        raise BadInput(f"The model `{using}` has not been prepared yet.", "bucle run --until models")
    chat, zero = chat_model(ws, nodes[-1].id), technique("zero-shot")
    instruction = getattr(ws.config.tasks[labelling.task], "instruction", "")
    params = {"instruction": instruction} if instruction else {}
    with TemporaryDirectory() as folder:
        out = Path(folder)
        zero.fit(
            FitContext(
                out=out,
                work=out,
                train=[],
                validation=[],
                labels=labels,
                params=params,
                seed=ws.config.seed,
                report=lambda done, total, note="": None,
                chat=chat,
            )
        )
        return zero.load(out, LoadContext(labels=labels, params=params, seed=ws.config.seed, chat=chat)).predict(texts)


def production_scores(ws: Workspace, task: str, wanted: Sequence[str], rows: Mapping[str, Example]) -> dict[str, float]:
    """Row -> how sure the production candidate is. Empty without one, or where it needs a language model or a remote
    one: asking hundreds of rows would then take minutes or money."""
    from bucle.customise.registry import technique
    from bucle.loop.opening import open_candidate

    release = ws.ledger.alias("production")
    tasks = ws.ledger.get(release).attrs["tasks"] if release else {}
    if task not in tasks or not wanted:
        return {}
    candidate = Candidate.model_validate(ws.ledger.get(str(tasks[task])).attrs)
    if candidate.base or technique(candidate.technique).needs - {"encoder"}:
        return {}
    said = open_candidate(ws, str(tasks[task])).predict([rows[name].input for name in wanted])
    return {name: one.score for name, one in zip(wanted, said, strict=True) if one.score is not None}
