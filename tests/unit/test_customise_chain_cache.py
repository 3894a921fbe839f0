"""The cache of steps: by content, inputs and labels; bounded; whole after a kill; never a reason to fail."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chain_peer import Shelf
from chat_peer import remote

from bucle.customise.chain import Chain, ChainEnv, StepCache, chain, step

FAQ = chain("c", step("retrieve", "buscar", cache="forever"),
            step("prompt", "redactar", model="gpt", passages="buscar", cache=60, user="{{ input }}"))


def test_what_is_kept_costs_nothing_and_is_nobody_elses(tmp_path: Path) -> None:
    shelf = Shelf(("cuota de 30 euros", ()), ("cuota interna de 12 euros", ("staff",)))
    with remote(lambda messages, body: messages[-1]["content"]) as (gpt, peer):
        made = Chain(FAQ, ChainEnv(models={"gpt": gpt}, index=shelf, cache=StepCache(tmp_path / "c.db")))

        def asked(*labels: str, text: str = "cuota") -> Any:
            return made.predict([text], access=frozenset(labels))[0]

        staff = asked("staff")
        assert "12 euros" in staff.output
        assert "12 euros" not in asked().output
        assert (len(peer.asked), shelf.searches) == (2, 2)
        again = asked("staff")
        assert again.output == staff.output
        assert again.chunks == staff.chunks
        assert [span["cached"] for span in again.spans] == [True, True]
        assert again.usage.tokens_in == 0
        assert (len(peer.asked), shelf.searches) == (2, 2)
        assert "12 euros" not in asked("otra").output
        assert "12 euros" in asked("staff", "otra").output
        assert len(peer.asked) == 4, "a superset of the labels is another set"
        # the labels of a passage change: what was kept with it is not given any more
        shelf.chunks[1] = shelf.chunks[1].model_copy(update={"access": ("staff", "board")})
        assert "12 euros" not in asked("staff").output
        assert asked("staff", text="otra cuota").spans[0]["cached"] is False


def test_another_content_model_or_input_is_another_key(tmp_path: Path) -> None:
    cache, calls = StepCache(tmp_path / "c.db"), []

    def run(spec: Any, text: str = "hola") -> None:
        with remote(lambda messages, body: calls.append(1) or "x") as (gpt, _):
            Chain(spec, ChainEnv(models={"gpt": gpt}, cache=cache)).predict([text])

    def made(**more: Any) -> Any:
        return chain("c", step("prompt", "a", model="gpt", user="{{ input }}", cache=60, **more))

    with remote(lambda messages, body: calls.append(1) or "x") as (gpt, _):
        one = Chain(made(), ChainEnv(models={"gpt": gpt}, cache=cache))
        for text in ("a", "a", "b"):
            one.predict([text])
        assert len(calls) == 2
        Chain(made(timeout_s=5, then="end"), ChainEnv(models={"gpt": gpt}, cache=cache)).predict(["a"])
        assert len(calls) == 2, "how it runs is no part of what it gives"
        Chain(made(max_tokens=9), ChainEnv(models={"gpt": gpt}, cache=cache)).predict(["a"])
        assert len(calls) == 3
    run(made(), "a")
    assert len(calls) == 4, "the same name at another address is another model"


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    left = [1]

    def flaky(text: str) -> str:
        if left:
            left.pop()
            raise ValueError("no")
        return "bien"

    project = tmp_path / "p"
    project.mkdir()
    (project / "own.py").write_text("import pathlib\nP = pathlib.Path(__file__).with_name('n')\n"
                                    "def f(text):\n    n = int(P.read_text()) if P.exists() else 0\n"
                                    "    P.write_text(str(n + 1))\n    if not n: raise ValueError('no')\n"
                                    "    return str(n)\n")
    spec = chain("c", step("python", "a", function="own:f", cache="forever"), folder=project)
    made = Chain(spec, ChainEnv(project=project, trusted=True, cache=StepCache(tmp_path / "c.db")))
    assert [made.predict(["x"])[0].output for _ in range(3)] == ["", "1", "1"]
    (project / "own.py").write_text((project / "own.py").read_text() + "# edited\n")
    fresh = Chain(spec, ChainEnv(project=project, trusted=True, cache=made.env.cache))
    assert fresh.predict(["x"])[0].output == "2", "other code is another key"
    given = chain("c", step("python", "a", function="m:f", cache="forever"))
    loose = Chain(given, ChainEnv(functions={"m:f": flaky}, cache=made.env.cache))
    assert [loose.predict(["x"])[0].spans[0]["cached"] for _ in range(3)] == [False] * 3, "nobody knows its code"


def test_it_lasts_as_long_as_it_says_and_takes_no_more_room_than_it_may(tmp_path: Path) -> None:
    now = [1000.0]
    cache = StepCache(tmp_path / "c.db", max_bytes=100_000, clock=lambda: now[0])
    cache.put("short", {"text": "a"}, 10)
    cache.put("ever", {"text": "b"}, -1)
    now[0] += 9
    assert cache.get("short") == {"text": "a"}
    now[0] += 2
    assert cache.get("short") is None
    for n in range(600):
        now[0] += 1
        cache.put(f"k{n}", {"text": "x" * 1000}, -1)
        if n % 50 == 0:
            assert cache.get("ever") == {"text": "b"}
    assert cache.size() < 100_000 + 64 * 1100
    assert cache.get("k599") is not None
    assert cache.get("k0") is None
    assert cache.get("ever") == {"text": "b"}, "what is used stays"
    cache.put("huge", {"text": "x" * 90_000}, -1)
    assert cache.get("huge") is None


def test_who_lets_go_of_the_file_may_look_again(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "c.db")
    cache.put("k", {"a": 1}, 60)
    cache.close()
    cache.close()
    assert not (tmp_path / "c.db-wal").exists()
    assert cache.get("k") == {"a": 1}
    cache.close()
    cache.put("k", {"a": 2}, 60)
    assert cache.get("k") == {"a": 2}
    cache.close()


def test_a_damaged_or_foreign_file_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.db"
    path.write_bytes(b"this is no database at all" * 100)
    cache = StepCache(path)
    cache.put("a", {"text": "1"}, -1)
    assert cache.get("a") == {"text": "1"}
    assert path.with_name("c.db.damaged").exists()
    cache.close()
    raw = bytearray(path.read_bytes())
    raw[100:] = os.urandom(len(raw) - 100)
    path.write_bytes(raw)
    again = StepCache(path)
    again.put("b", {"text": "2"}, -1)
    assert again.get("b") == {"text": "2"}
    foreign = tmp_path / "other.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    other = StepCache(foreign)
    other.put("a", {}, -1)
    assert other.get("a") is None
    assert "another database" in other.problem
    with sqlite3.connect(foreign) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]
    db.close()
    assert StepCache(Path("/proc/nowhere/c.db")).get("a") is None


def test_a_row_that_somebody_wrote_is_no_result(tmp_path: Path) -> None:
    cache = StepCache(tmp_path / "c.db")
    spec = chain("c", step("retrieve", "a", cache=60))
    shelf = Shelf(("cuota", ()))
    made = Chain(spec, ChainEnv(index=shelf, cache=cache))
    good = made.predict(["cuota"])[0]
    for value in ('[1]', '{"text": 1}', '{"text": "x", "chunks": [{}]}', 'null', '{"text": "x", "chunks": "y"}', '{'):
        with sqlite3.connect(tmp_path / "c.db") as db:
            db.execute("UPDATE kept SET value = ?", (value,))
        db.close()
        assert made.predict(["cuota"])[0].output == good.output, value


WRITER = """
import sys
from pathlib import Path
from bucle.customise.chain import StepCache
cache = StepCache(Path(sys.argv[1]))
n = 0
while True:
    cache.put(f"k{n}", {"text": f"v{n}" * 50}, -1)
    print(n, flush=True)
    n += 1
"""


def test_a_kill_amid_writes_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(200):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
    cache = StepCache(path)
    assert cache.problem == ""
    assert all(cache.get(f"k{n}") == {"text": f"v{n}" * 50} for n in range(last + 1))
    cache.put("next", {"text": "x"}, -1)
    assert cache.get("next") == {"text": "x"}


def test_many_threads_share_it(tmp_path: Path) -> None:
    caches = [StepCache(tmp_path / "c.db") for _ in range(2)]
    wrong: list[str] = []

    def work(cache: StepCache, base: int) -> None:
        for n in range(60):
            key = f"k{n % 20}"
            cache.put(key, {"text": key}, -1)
            if (got := cache.get(key)) != {"text": key}:
                wrong.append(f"{base} {key} {got}")

    threads = [threading.Thread(target=work, args=(cache, n)) for n in range(2) for cache in caches]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert time.perf_counter() - began < 20
    assert [cache.problem for cache in caches] == ["", ""]


def test_what_holds_personal_data_or_a_secret_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_SECRET", "hush-hush-1234567890")
    replies = {"correo": "escriba a ana.perez@example.org", "clave": "es hush-hush-1234567890", "hola": "hola"}

    with remote(lambda messages, body: replies.get(messages[-1]["content"], "ok")) as (gpt, peer):
        spec = chain("c", step("prompt", "a", model="gpt", cache="forever", user="{{ input }}"))
        made = Chain(spec, ChainEnv(models={"gpt": gpt}, cache=StepCache(tmp_path / "c.db")))

        def notes(text: str) -> list[str]:
            return [str(made.predict([text])[0].spans[0].get("note", "")) for _ in range(2)]

        assert notes("correo") == ["not kept: personal data"] * 2
        assert notes("soy Ana, 612 345 678") == ["not kept: personal data"] * 2
        assert notes("línea\n612345678") == ["not kept: personal data"] * 2
        assert notes("clave") == ["not kept: a secret"] * 2
        assert len(peer.asked) == 8
        assert notes("hola") == ["", ""]
        assert len(peer.asked) == 9
        assert made.predict(["hola"])[0].spans[0]["cached"]
    assert made.env.cache is not None
    made.env.cache.close()
    held = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"hola" in held
    assert not any(part in held for part in (b"ana.perez", b"612", b"hush"))
    assert (tmp_path / "c.db").stat().st_mode & 0o777 == 0o600


def test_todays_labels_are_part_of_the_key(tmp_path: Path) -> None:
    labels = {"faq.md": ("jefes",)}
    spec = chain("c", step("retrieve", "buscar"), step("prompt", "a", model="gpt", cache=60, user="{{ input }}"))
    with remote(lambda messages, body: "ok") as (gpt, _):
        made = Chain(spec, ChainEnv(models={"gpt": gpt}, index=Shelf(("hola", ())), labels=labels,
                                    cache=StepCache(tmp_path / "c.db")))
        assert [made.predict(["hola"])[0].spans[1]["cached"] for _ in range(2)] == [False, True]
        later = Chain(spec, ChainEnv(models={"gpt": gpt}, index=Shelf(("hola", ())), cache=made.env.cache,
                                     labels=labels | {"otra.md": ("jefes",)}))
        assert not later.predict(["hola"])[0].spans[1]["cached"]


def test_what_has_expired_and_what_an_older_form_kept_are_gone_from_the_file(tmp_path: Path) -> None:
    path, now = tmp_path / "c.db", [1000.0]
    cache = StepCache(path, clock=lambda: now[0])
    cache.put("a", {"text": "palabra-vieja" * 100}, 10)
    cache.close()
    now[0] += 11
    StepCache(path, clock=lambda: now[0]).close()
    assert not any(b"palabra-vieja" in file.read_bytes() for file in tmp_path.iterdir())
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA application_id=0x42756332")
        db.execute("INSERT INTO kept VALUES ('b', 1e12, 0, 1, ?)", ("ana@example.org" * 50,))
    db.close()
    path.chmod(0o644)
    again = StepCache(path)
    assert (again.problem, again.get("b")) == ("", None)
    again.close()
    assert not any(b"ana@example" in file.read_bytes() for file in tmp_path.iterdir())
    assert path.stat().st_mode & 0o777 == 0o600
