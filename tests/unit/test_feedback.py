"""Feedback becomes rows only where people agree."""

from __future__ import annotations

from bucle.core.records import Feedback, Trace
from bucle.feedback import FeedbackRows, build_rows
from bucle.feedback.build import MIN_NEW_LABEL

AT = "2026-03-02T09:00:00+00:00"


def trace(n: int, said: str = "", output: str = "baja", user: str = "u1") -> Trace:
    return Trace(id=f"trace:{n}", at=AT, received_at=AT, route="intents", model="m", input=said or f"mensaje {n}",
                 output=output, user=user)


def says(n: int, rating: int | None = None, correction: str | None = None, by: str = "ana") -> Feedback:
    return Feedback(id=f"feedback:{n}{rating}{correction}{by}", trace=f"trace:{n}", at=AT, by=by,
                    rating=rating, correction=correction)  # type: ignore[arg-type]


def build(traces: list[Trace], feedback: list[Feedback], **more: object) -> FeedbackRows:
    return build_rows(traces, feedback, **{"labels": {"baja", "alta"}, "known": set(), **more})  # type: ignore[arg-type]


def targets(made: FeedbackRows) -> list[tuple[str, str | None]]:
    return [(row.source, row.target) for row in made.rows]


def test_corrections_and_confirmations_become_rows_and_nothing_else_does() -> None:
    made = build([trace(n) for n in range(5)], [says(0, 1), says(1, -1, "alta"), says(2, None, " alta "), says(3, -1)])
    assert targets(made) == [("trace:0", "baja"), ("trace:1", "alta"), ("trace:2", "alta")]
    assert made.left_out == {"rated bad, not corrected": 1}
    assert (made.ratings, made.corrections, made.new_labels) == (3, 2, {})
    assert (made.rows[0].group, made.rows[0].at, made.rows[0].input) == ("u1", AT, "mensaje 0")


def test_reviewers_who_contradict_each_other_leave_a_trace_out() -> None:
    traces = [trace(n) for n in range(5)]
    feedback = [
        says(0, None, "alta"), says(0, None, "baja", by="eva"),  # two corrections
        says(1, 1), says(1, None, "alta", by="eva"),  # good, and yet corrected
        says(2, 1), says(2, -1, by="eva"),  # good and bad
        says(3, -1), says(3, None, "alta", by="eva"),  # bad, and here is the right one: they agree
        says(4, 1), says(4, None, "baja", by="eva"), says(4, 1, by="leo"),  # all say the same
    ]
    made = build(traces, feedback)
    assert targets(made) == [("trace:3", "alta"), ("trace:4", "baja")]
    assert made.left_out == {"reviewers disagree": 3}


def test_a_new_label_needs_enough_rows() -> None:
    traces = [trace(n) for n in range(2 * MIN_NEW_LABEL)]
    new = [says(n, -1, "titular") for n in range(MIN_NEW_LABEL)]
    rare = [says(MIN_NEW_LABEL + n, -1, "broma") for n in range(MIN_NEW_LABEL - 1)]
    made = build(traces, [*new, *rare])
    assert made.new_labels == {"titular": MIN_NEW_LABEL}
    assert {row.target for row in made.rows} == {"titular"}
    assert made.left_out == {"new label with too few rows": MIN_NEW_LABEL - 1}
    assert build(traces, new[:-1]).rows == []
    assert len(build(traces, new[:3], min_new_label=3).rows) == 3


def test_abusive_users_repeats_and_empty_messages_teach_nothing() -> None:
    traces = [trace(0, user="troll"), trace(1, "igual"), trace(2, "igual"), trace(3, "ya sabido"), trace(4, "  ")]
    made = build(traces, [says(n, 1) for n in range(5)], exclude_users={"troll"}, known={"ya sabido"})
    assert targets(made) == [("trace:1", "baja")]
    assert made.left_out == {"already in the dataset": 2, "empty": 1, "from a user with an abuse alert": 1}


def test_what_an_abusive_user_sends_often_makes_no_new_label() -> None:
    traces = [trace(n, user="troll") for n in range(20)]
    made = build(traces, [says(n, -1, "spam") for n in range(20)], exclude_users={"troll"})
    assert (made.rows, made.new_labels) == ([], {})


def test_feedback_on_nothing_is_nothing_and_the_same_feedback_makes_the_same_ids() -> None:
    assert build([], [says(0, 1)]).rows == []
    assert build([trace(0)], []).rows == []
    one, two = (build([trace(0)], [says(0, 1)]).rows[0].id for _ in range(2))
    assert one == two != build([trace(0)], [says(0, None, "alta")]).rows[0].id
    assert build([trace(0, output="")], [says(0, 1)]).rows == []
