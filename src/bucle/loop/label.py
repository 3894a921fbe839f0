"""Labelling a task: what to ask whom next, what is said, what is left, how far people agree, who decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from threading import RLock
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Annotation, Example
from bucle.ledger import AnnotationStore
from bucle.loop.label_pool import Pool, pool
from bucle.loop.workspace import Workspace

__all__ = ["Labelling"]

REFRESH = 10
"""New annotations after which uncertainty is computed again."""
PREDICTED = 400
"""Rows that the production candidate is asked about: those of which TF-IDF is least sure."""
OVERLAP, PEOPLE, RANDOM = 0.1, 2, 0.2
"""Share of rows asked of several people, how many are asked, share of rows drawn by lot."""
MAX_BATCH = 500
MAX_ANSWER = 100_000


class Labelling:
    """One task being labelled. Threads may share it. Methods return what is JSON-ready and raise BucleError."""

    def __init__(self, ws: Workspace, task: str) -> None:
        self.ws, self.task, self.store = ws, task, AnnotationStore(ws.ledger)
        self._lock = RLock()
        self._pool: tuple[Any, Pool] | None = None
        self._ranker: tuple[Any, Any] | None = None
        self._doubt: tuple[Any, Any] | None = None
        if task not in ws.config.tasks:
            raise NotFound(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
        self.kind = ws.config.tasks[task].kind

    # what there is ---------------------------------------------------------------------------------------

    def rows(self) -> dict[str, Example]:
        """Every row by its id; read again only when the file or the added rows change."""
        return self._read().rows

    def _read(self) -> Pool:
        with self._lock:
            stat = self.ws.rows_file(self.task).stat()
            key = (stat.st_mtime_ns, stat.st_size, self.store.changes(self.task)[1])
            if self._pool is None or self._pool[0] != key:
                self._pool = (key, pool(self.ws, self.task))
            return self._pool[1]

    def row(self, name: str) -> Example:
        """The row with this id, or the only one whose id begins so. Raises NotFound."""
        rows = self.rows()
        if name in rows:
            return rows[name]
        digits = name.removeprefix("example:")
        found = [one for one in rows if len(digits) >= 4 and one.startswith(f"example:{digits}")]
        if len(found) != 1:
            raise NotFound(
                f"{'No' if not found else 'More than one'} row of `{self.task}` is called `{name[:80]}`.",
                f"bucle label next {self.task} shows rows with their ids",
            )
        return rows[found[0]]

    def text(self, row: Example) -> str:
        """A row's input as people read it."""
        from bucle.data.kinds import readable

        return readable(self.kind, row.input)

    def given(self, row: Example) -> str | None:
        """What the source says is right for a row: its label, answer, reference or documents."""
        from bucle.data.kinds import said

        return said(self.kind, row)

    def labels(self) -> list[str]:
        """The labels that may be given: those of bucle.yaml, else those seen so far; empty where answers are texts."""
        if self.kind != "classify":
            return []
        declared = list(getattr(self.ws.config.tasks[self.task], "labels", ()))
        if declared:
            return declared
        seen = {row.target for row in self.rows().values() if row.target}
        seen |= {a.label for a in self.store.annotations(self.task) if a.label and a.kind != "prelabel"}
        return sorted(seen)

    # asking ----------------------------------------------------------------------------------------------

    def next(
        self,
        by: str,
        n: int = 1,
        *,
        review: bool = False,
        overlap: float = OVERLAP,
        people: int = PEOPLE,
        random_share: float = RANDOM,
    ) -> dict[str, Any]:
        """Up to `n` rows for `by`, reserved for half an hour: what they hold already first, then new ones.

        `overlap` of all rows are asked of `people` people. `review` asks about rows that have a label, the most
        suspect first. `left` counts what `by` could still be asked.
        """
        from bucle.data.label import answers, effective

        if not 1 <= n <= MAX_BATCH:
            raise BadInput(f"A batch has 1 to {MAX_BATCH} rows, not {n}.", f"bucle label next {self.task} -n 10")
        self._check_name(by)
        rows, items = self.rows(), self.store.annotations(self.task)
        said, now = answers(items), effective(items)
        room = self._room(rows, said, now, by, review, overlap, people)
        held = [row for row in self.store.held(self.task, by) if row in room][:n]
        picks: dict[str, tuple[str, float | None]] = dict.fromkeys(held, ("held", None))
        if len(held) < n and len(room) > len(held):
            order = self._order(room, said, n - len(held), items, review, random_share, skip=set(held))
            wanted = [(row, room[row]) for row in order if row not in picks]
            rest = [(row, left) for row, left in room.items() if row not in order and row not in picks]
            taken = self.store.take(self.task, by, wanted + rest, n - len(held))
            picks |= {row: order.get(row, ("waiting", None)) for row in taken}
        proposed = answers(items, "prelabel")
        return {
            "task": self.task,
            "by": by,
            "left": len(room),
            "labels": self.labels(),
            "rows": [self._asked(rows[row], why, doubt, proposed.get(row, {})) for row, (why, doubt) in picks.items()],
        }

    def _room(
        self,
        rows: Mapping[str, Example],
        said: Mapping[str, Mapping[str, Annotation]],
        now: Mapping[str, Any],
        by: str,
        review: bool,
        overlap: float,
        people: int,
    ) -> dict[str, int]:
        """Row -> how many more people may answer it, of the rows that `by` can be asked."""
        from bucle.data.label.queue import in_share

        room = {}
        for name, row in rows.items():
            if (self.given(row) is not None) is not review or by in said.get(name, {}):
                continue
            if name in now and now[name].status == "adjudicated":
                continue
            wanted = people if in_share(self.ws.config.seed, "overlap", name, overlap) else 1
            if (left := wanted - len(said.get(name, {}))) > 0:
                room[name] = left
        return room

    def _order(
        self,
        room: Mapping[str, int],
        said: Mapping[str, Mapping[str, Annotation]],
        n: int,
        items: Sequence[Annotation],
        review: bool,
        random_share: float,
        skip: set[str],
    ) -> dict[str, tuple[str, float | None]]:
        """Row -> why and how uncertain, more than enough of them, first first. At most half go to rows that wait for
        a second opinion."""
        free = [row for row in room if row not in skip]
        waiting = [row for row in free if row in said][: (n + 1) // 2]
        order: dict[str, tuple[str, float | None]] = dict.fromkeys(waiting, ("overlap", None))
        if review:
            return order | self._suspects(free)
        ranker, doubt = self._ranked(items)
        near = [a.row for a in items if a.kind == "annotation"][-100:]
        # Others may hold what comes first: twice as many and a margin are ranked.
        picks = ranker.order(
            [row for row in free if row not in order],
            min(2 * n + 50, MAX_BATCH * 2),
            uncertainty=doubt,
            near=near,
            random_share=random_share,
            start=len(items),
        )
        return order | {pick.id: (pick.why, pick.uncertainty) for pick in picks}

    def _suspects(self, free: Sequence[str]) -> dict[str, tuple[str, float | None]]:
        from bucle.data.suspects import suspect_labels

        rows, wanted = self.rows(), set(free)
        labels = self._known()
        examples = [row.model_copy(update={"target": labels[row.id]}) for row in rows.values() if row.id in labels]
        found = suspect_labels(examples, top=MAX_BATCH * 2, least=0.0) if self.kind == "classify" else []
        return {one.id: ("suspect", round(1 - one.given_confidence, 4)) for one in found if one.id in wanted}

    def _known(self) -> dict[str, str]:
        """Row -> label, of every row whose label a person or the source settled."""
        from bucle.data.label import effective

        given = {name: told for name, row in self.rows().items() if (told := self.given(row))}
        now = effective(self.store.annotations(self.task))
        given |= {name: one.label for name, one in now.items() if one.settled and one.label}
        return given

    def ranker(self) -> Any:
        """The pool's vectors; made once for the same rows."""
        from bucle.data.kinds import plain
        from bucle.data.label import Ranker

        with self._lock:
            rows = self.rows()
            if self._ranker is None or self._ranker[0] is not rows:
                texts = [plain(self.kind, row.input) for row in rows.values()]
                self._ranker = (rows, Ranker(list(rows), texts, self.ws.config.seed))
            return self._ranker[1]

    def _ranked(self, items: Sequence[Annotation]) -> tuple[Any, Any]:
        """The ranker and how uncertain each row is, computed again after some new annotations."""
        with self._lock:
            ranker = self.ranker()
            key = (ranker, len(items) // REFRESH, self.ws.ledger.alias("production"))
            if self._doubt is None or self._doubt[0] != key:
                self._doubt = (key, self._uncertainty(ranker))
            return ranker, self._doubt[1]

    def _uncertainty(self, ranker: Any) -> Any:
        """By TF-IDF fitted on what is labelled so far; the least sure of them by the production candidate instead,
        where one serves the task and answers on this machine without a language model."""
        if self.kind != "classify":
            return None
        from bucle.loop.prelabel import production_scores

        known = self._known()
        doubt = ranker.uncertainties(known)
        open_ = [row for row in ranker.ids if row not in known]
        scored = production_scores(self.ws, self.task, self._least_sure(ranker, doubt, open_), self.rows())
        if not scored:
            return doubt
        import numpy as np

        made = np.full(len(ranker.ids), np.nan)
        for row, score in scored.items():
            made[ranker.place[row]] = 1 - score
        return made

    def _least_sure(self, ranker: Any, doubt: Any, open_: Sequence[str]) -> list[str]:
        from bucle.data.label.queue import chance_of

        if doubt is None:
            return sorted(open_, key=lambda row: chance_of(self.ws.config.seed, "random", row))[:PREDICTED]
        return sorted(open_, key=lambda row: (-doubt[ranker.place[row]], row))[:PREDICTED]

    def _asked(self, row: Example, why: str, doubt: float | None, proposed: Mapping[str, Annotation]) -> dict[str, Any]:
        machine = next(reversed(list(proposed.values())), None)
        proposal = {"label": machine.label, "by": machine.by} if machine else None
        if machine is None and (draft := self._read().drafts.get(row.id)) is not None:
            proposal = {"label": draft, "by": f"the draft at {row.source}"}
        return {
            "id": row.id,
            "input": row.input,
            "text": self.text(row),
            "source": row.source,
            "label": self.given(row),
            "why": why,
            "uncertainty": doubt,
            "proposal": proposal,
        }

    # saying ----------------------------------------------------------------------------------------------

    def add(
        self, row: str, label: str, by: str, *, note: str = "", new: bool = False, decide: bool = False
    ) -> dict[str, Any]:
        """What `by` says about a row (`decide`: for everybody). `new` allows a label never seen before. Saying the same
        twice stores it once. Raises NotFound, BadInput."""
        self._check_name(by)
        full, label = self.row(row).id, self._check_label(label, new)
        kind = "adjudication" if decide else "annotation"
        item = Annotation(id="", task=self.task, row=full, by=by, label=label, at="", kind=kind, note=note)
        stored, fresh = self.store.say(item)
        return {"annotation": stored.model_dump(mode="json"), "new": fresh}

    def take_back(self, row: str, by: str) -> dict[str, Any]:
        """`by` no longer says what they said about a row; the record of both stays. Raises BadInput if they said
        nothing."""
        from bucle.data.label import answers

        full = self.row(row).id
        if by not in answers(self.store.annotations(self.task, full)).get(full, {}):
            raise BadInput(f"{by} says nothing about that row.", f"bucle label status {self.task}")
        stored, fresh = self.store.say(Annotation(id="", task=self.task, row=full, by=by, label=None, at=""))
        return {"annotation": stored.model_dump(mode="json"), "new": fresh}

    def skip(self, row: str, by: str) -> None:
        """Do not ask `by` about a row for a day."""
        self._check_name(by)
        self.store.skip(self.task, self.row(row).id, by)

    def _check_name(self, by: str) -> None:
        if not by.strip() or len(by) > 200 or not by.isprintable():
            raise BadInput("Who is labelling?", "Say so: --by NAME")

    def _check_label(self, label: str, new: bool) -> str:
        label = label.strip()
        if self.kind != "classify":
            from bucle.data.kinds import accepted
            from bucle.loop.row_step import task_schema

            if len(label) > MAX_ANSWER:
                raise BadInput(f"An answer may have {MAX_ANSWER:,} characters.", "Shorten it.")
            return accepted(self.kind, label, task_schema(self.ws, self.task))
        if not label or len(label) > 200 or not label.isprintable():
            raise BadInput("A label is 1 to 200 printable characters.", "Give one.")
        known = self.labels()
        if known and label not in known:
            near = get_close_matches(label, known, 1)
            hint = f"Did you mean `{near[0]}`? " if near else f"Labels: {', '.join(known[:20])}. "
            if getattr(self.ws.config.tasks[self.task], "labels", ()):
                raise BadInput(f"`{self.task}` has no label `{label}`.", hint + "bucle.yaml lists them.")
            if not new:
                raise BadInput(f"`{self.task}` has no label `{label}` yet.", hint + "To add it: --new")
        return label

    # looking ---------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """How much is labelled, by whom, and what is left; label shares from the rows drawn by lot, which alone are
        unbiased."""
        from bucle.data.label import answers, effective, random_sample

        rows, items = self.rows(), self.store.annotations(self.task)
        now, said = effective(items), answers(items)
        statuses = Counter(one.status for row, one in now.items() if row in rows)
        open_ = [name for name, row in rows.items() if self.given(row) is None]
        settled = {name: now[name].label for name in open_ if name in now and now[name].settled}
        disputed = [name for name in open_ if name in now and now[name].status == "disputed"]
        drawn = random_sample(open_, {*settled, *disputed}, self.ws.config.seed)
        sample = [name for name in drawn if name in settled]
        people = Counter(by for row, its in said.items() if row in rows for by in its)
        return {
            "task": self.task,
            "rows": len(rows),
            "labelled_by_source": len(rows) - len(open_),
            "labelled_here": len(settled),
            "relabelled": sum(
                given is not None and name in now and now[name].settled and now[name].label != given
                for name, row in rows.items()
                for given in [self.given(row)]
            ),
            "left": len(open_) - len(settled),
            "disputed": statuses["disputed"],
            "adjudicated": statuses["adjudicated"],
            "proposed": statuses["prelabel"] + sum(row not in now for row in self._read().drafts),
            "two_answers": sum(len(its) > 1 for its in said.values()),
            "people": dict(people.most_common()),
            "not_in_source": len({item.row for item in items} - set(rows)),
            "random_sample": {
                "rows": len(sample),
                "open": len(drawn) - len(sample),
                "open_share": round(1 - len(sample) / len(drawn), 4) if drawn else 0.0,
                "shares": _shares([settled[row] for row in sample]) if self.kind in ("classify", "answer") else {},
            },
        }

    def agreement(self) -> dict[str, Any]:
        """Alpha, kappas and who confuses what; see `bucle.data.label.agreement`."""
        from bucle.data.label import agreement, answers

        said = answers(self.store.annotations(self.task))
        plain = {row: {by: a.label or "" for by, a in people.items()} for row, people in said.items()}
        found = agreement(plain, seed=self.ws.config.seed)
        if self.kind not in ("classify", "answer"):
            found["verdict"] += " Here people write texts: only those that are the same, letter by letter, agree."
        return {"task": self.task, **found}

    def disagreements(self, limit: int = 100) -> dict[str, Any]:
        """Rows on which people disagree and nobody has decided, with who says what."""
        from bucle.data.label import disagreements

        found, rows = disagreements(self.store.annotations(self.task)), self.rows()
        told = [
            {"id": row, "input": self.text(rows[row]) if row in rows else "", "answers": said}
            for row, said in list(found.items())[:limit]
        ]
        return {"task": self.task, "disagreements": len(found), "rows": told}

    def decide_majority(self, by: str) -> dict[str, Any]:
        """`by` decides every disagreement in which more than half say the same, as they do."""
        from bucle.data.label import disagreements

        self._check_name(by)
        decided = 0
        open_ = disagreements(self.store.annotations(self.task))
        for row, said in open_.items():
            label, votes = Counter(said.values()).most_common(1)[0]
            if 2 * votes > len(said):
                item = Annotation(id="", task=self.task, row=row, by=by, label=label, at="", kind="adjudication")
                self.store.say(item.model_copy(update={"note": f"majority: {votes} of {len(said)}"}))
                decided += 1
        return {"task": self.task, "decided": decided, "left": len(open_) - decided}


def _shares(labels: Sequence[str]) -> dict[str, dict[str, float]]:
    """Label -> share with its interval, of a simple random sample (Wilson)."""
    from bucle.evaluate.statistics import interval

    return {
        label: interval([float(one == label) for one in labels]).model_dump(include={"value", "low", "high"})
        for label, _ in Counter(labels).most_common(50)
    }
