"""Rows as they stream by: what goes, why, and what is left of the personal data in the rest."""

from __future__ import annotations

import time
from random import Random
from types import SimpleNamespace

import pytest

from bucle.core.config import Rows
from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Example
from bucle.data.clean_rows import RowCleaner, RowRemoval
from bucle.ledger import Ledger
from bucle.loop import restore


def row(name: str, text: str, target: str | None = "x") -> Example:
    return Example(id=f"example:{name}", input=text, target=target, source=f"filas.tsv:{name}")


def reasons(cleaner: RowCleaner, *rows: Example) -> list[str]:
    return [one.reason if isinstance(one, RowRemoval) else "" for one in cleaner.clean(rows)]


def test_rows_too_short_too_long_and_in_another_language_go_with_their_reason() -> None:
    cleaner = RowCleaner(Rows(min_words=2, max_characters=60), languages=("es",))
    found = reasons(
        cleaner,
        row("1", "hola"),
        row("2", "quiero cambiar la fecha de mi cita"),
        row("3", "x " * 40),
        row("4", "I would like to change my appointment, please"),
        row("5", "ok, gracias"),
        row("6", ""),
    )
    assert found == ["too-short", "", "too-long", "language", "", "too-short"]
    assert dict(cleaner.removed) == {"too-short": 2, "too-long": 1, "language": 1}
    assert cleaner.seen == 6


def test_duplicates_are_kept_or_go_as_asked_and_another_label_is_a_conflict_not_a_copy() -> None:
    rows = [
        row("1", "Quiero darme de baja del servicio de fibra cuanto antes"),
        row("2", "quiero darme de BAJA del servicio de fibra, cuanto antes!"),
        row("3", "Quiero darme de baja del servicio de fibra cuanto antes", "y"),
        row("4", "Quiero darme de baja del servicio de fibra cuanto antes ya"),
        row("5", "otra cosa distinta"),
    ]
    keep = RowCleaner(Rows())
    assert list(keep.clean(rows)) == rows
    assert keep.conflicts == 1
    assert reasons(RowCleaner(Rows(duplicates="exact")), *rows) == ["", "exact-duplicate", "", "", ""]
    near = list(RowCleaner(Rows(duplicates="near")).clean(rows))
    assert near[3] == RowRemoval(
        "example:4", "filas.tsv:4", "near-duplicate", "nearly the same as filas.tsv:1", "filas.tsv:1"
    )
    one = RowCleaner(Rows(duplicates="near"))
    assert [one.check(example) for example in rows] == near
    kept = RowCleaner(Rows(duplicates="near"), restored=frozenset({"example:2", "example:4"}))
    assert list(kept.clean(rows)) == rows


def test_personal_data_are_treated_in_the_text_and_in_answers_and_labels_are_left_alone() -> None:
    classify = RowCleaner(Rows(), personal={"phone": "keep"})
    text = "soy ana@example.com, 612 345 678, password=Verano2024!"
    assert classify.check(row("1", text, "ana@example.com")) == row(
        "1", "soy [EMAIL], 612 345 678, password=", "ana@example.com"
    )
    assert dict(classify.personal) == {"email": 1, "phone": 1, "secret": 1}
    answer = RowCleaner(Rows(), kind="answer")
    assert answer.check(row("2", "¿a quién escribo?", "a ana@example.com")) == row(
        "2", "¿a quién escribo?", "a [EMAIL]"
    )
    none = row("3", "¿cuánto cuesta?", None)
    assert answer.check(none) == none


def test_drop_takes_the_row_and_a_restored_one_comes_back_masked() -> None:
    example = row("1", "mi DNI es 12345678Z y mi correo ana@example.com")
    gone = RowCleaner(Rows(), personal={"dni": "drop"}).check(example)
    assert isinstance(gone, RowRemoval)
    assert (gone.reason, gone.detail) == ("personal-data", "dni")
    assert "12345678Z" not in repr(gone)
    back = RowCleaner(Rows(), personal={"dni": "drop"}, restored=frozenset({example.id})).check(example)
    assert back == row("1", "mi DNI es [DNI] y mi correo [EMAIL]")
    secret = RowCleaner(Rows(), personal={"secret": "keep"}).check(row("2", "usa ghp_" + "a1" * 18))
    assert secret == row("2", "usa ")


@pytest.mark.parametrize("policy", [{"correo": "mask"}, {"email": "borrar"}, {"email": "hash"}])
def test_a_policy_that_cannot_be_meant_is_refused_before_the_first_row(policy: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        RowCleaner(Rows(), personal=policy)  # type: ignore[arg-type]


def test_odd_rows_pass_and_a_stream_is_quick() -> None:
    odd = [row("a", "\ud800 roto"), row("b", "🙂"), row("c", "a\r\nb"), row("d", "\x00 x"), row("e", "ñ" * 90_000)]
    assert [one.id for one in RowCleaner(Rows(duplicates="exact", min_words=0)).clean(odd)] == [one.id for one in odd]
    draw, words = Random(1), ["quiero", "cambiar", "la", "tarifa", "de", "mi", "casa", "porque", "sube"]
    rows = [row(str(at), " ".join(draw.choice(words) for _ in range(9))) for at in range(20_000)]
    began = time.process_time()
    kept = sum(isinstance(one, Example) for one in RowCleaner(Rows(duplicates="exact")).clean(rows))
    assert time.process_time() - began < 6  # 0.9 s where nothing else runs
    assert kept == len({one.input for one in rows})


def test_removals_are_listed_restored_by_id_path_or_reason_and_undone(tmp_path) -> None:  # type: ignore[no-untyped-def]
    ledger = Ledger(tmp_path)
    gone = [
        RowRemoval("example:" + "ab" * 32, "f.tsv:2", "too-short", "1 words"),
        RowRemoval("example:" + "cd" * 32, "f.tsv:3", "language", "en"),
    ]
    node = restore.put_removed(ledger, "intenciones", gone)
    figures = {"removed": [{"path": "a.md", "reason": "min_words", "detail": "2", "kept": ""}]}
    records = [
        SimpleNamespace(name="documents", outputs={}, figures=figures),
        SimpleNamespace(name="examples intenciones", outputs={"removed": node}, figures={}),
        SimpleNamespace(name="split intenciones", outputs={}, figures={}),
    ]
    items = restore.removed(ledger, records)  # type: ignore[arg-type]
    assert [(one.of, one.path, one.reason) for one in items] == [
        ("documents", "a.md", "min_words"),
        ("intenciones", "f.tsv:2", "too-short"),
        ("intenciones", "f.tsv:3", "language"),
    ]
    assert restore.restored(ledger) == frozenset()
    assert [one.id for one in restore.choose(items, ["a.md", "example:" + "ab" * 6])] == ["a.md", gone[0].id]
    assert [one.id for one in restore.choose(items, reason="language")] == [gone[1].id]
    for names, reason, error in (
        (["nada"], "", NotFound),
        (["example:ab"], "", NotFound),
        ([], "nada", NotFound),
        (["secret"], "", BadInput),
        ([], "secret", BadInput),
    ):
        with pytest.raises(error):
            restore.choose(items, names, reason)
    restore.restore(ledger, ["a.md", gone[0].id], by="ana", reason="restore a.md")
    assert restore.restore(ledger, ["a.md"], by="luis", reason="undo a.md", undo=True) == {gone[0].id}
    assert restore.restored(Ledger(tmp_path)) == {gone[0].id}
    assert [(one["by"], one["reason"], one["restored"]) for one in restore.history(ledger)] == [
        ("ana", "restore a.md", 2),
        ("luis", "undo a.md", 1),
    ]
    with pytest.raises(NotFound):
        restore.restore(ledger, ["a.md"], by="luis", reason="", undo=True)
    ledger.close()
