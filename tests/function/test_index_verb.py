"""`bucle index`: searching, what the index holds, its versions; on a finished project that is only read."""

from __future__ import annotations

from pathlib import Path

from command import answer, bucle


def test_searching_shows_passages_with_their_scores_and_places(finished: Path) -> None:
    said = bucle("index", "search", "¿Cómo cambio la domiciliación del recibo?", "-p", finished, "-k", 3)
    assert said.returncode == 0, said.stderr
    assert " 1. 1.000  words" in said.stdout or " 1. 0." in said.stdout
    assert "next: bucle data show" in said.stdout
    hits = answer("index", "search", "recibo domiciliado", "-p", finished, "-k", 4, "--weight", "0")["hits"]
    assert hits
    assert [h["rank"] for h in hits] == list(range(1, len(hits) + 1))
    assert all(h["meaning"] is None and h["words"] > 0 for h in hits), "no encoder was asked"
    assert [h["words"] for h in hits] == sorted((h["words"] for h in hits), reverse=True)
    web = answer("index", "search", "recibo", "-p", finished, "--where", "path=web/*", "--weight", "0")["hits"]
    assert web
    assert all(h["path"].startswith("web/") for h in web)


def test_versions_are_listed_and_can_be_searched(finished: Path) -> None:
    versions = answer("index", "list", "-p", finished)["versions"]
    assert [v["number"] for v in versions] == list(range(1, len(versions) + 1))
    assert [v["current"] for v in versions].count(True) == 1
    shown = answer("index", "show", "-p", finished)
    assert shown["passages"] == next(v["passages"] for v in versions if v["current"]) > 0
    assert "es" in shown["languages"]
    assert shown["bytes"] > 0
    for name in ("1", versions[0]["node"].partition(":")[2][:12]):
        assert answer("index", "search", "recibo", "-p", finished, "--version", name, "--weight", "0")["hits"]
    assert "* in force" in bucle("index", "list", "-p", finished).stdout


def test_what_cannot_be_asked_is_answer(finished: Path) -> None:
    for wrong, says in (
        (("--where", "colour=red"), "path, language, document, heading"),
        (("--where", "path"), "KEY=VALUE"),
        (("--version", "99"), "bucle index list"),
        (("--weight", "2"), "0<=x<=1"),
    ):
        said = bucle("index", "search", "recibo", "-p", finished, *wrong)
        assert said.returncode == 2, wrong
        assert says in said.stderr, said.stderr
        assert "Traceback" not in said.stderr
    nothing = answer("index", "search", "?", "-p", finished, "--weight", "0")
    assert nothing["hits"] == []
