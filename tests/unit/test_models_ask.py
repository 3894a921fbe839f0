"""ask_all against a server on loopback that speaks the OpenAI wire: order, limits, memory, failures, Ctrl-C."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import ChatReply
from bucle.models import ask as asking
from bucle.models import limits
from bucle.models.ask import Ask, ask_all, remembered, without_waiting
from bucle.models.limits import Limits
from bucle.models.remote import OpenAIChat, RateLimited

Answer = Callable[[str, int], "tuple[int, Any, dict[str, str]]"]


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that went away


class Peer:
    """Answers with `answer(the user's words, how often they were asked)`: status, body, headers; None hangs up.
    Counts what it was asked and how many requests were under way at once."""

    def __init__(self, answer: Answer | None = None, delay: float = 0.0) -> None:
        self.answer, self.delay = answer or (lambda text, n: ok(text.upper())), delay
        self.asked: list[str] = []
        self.times: list[float] = []
        self.now = self.peak = 0
        self.chats: list[OpenAIChat] = []
        lock, peer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                text = body["messages"][-1]["content"]
                with lock:
                    peer.asked.append(text)
                    peer.times.append(time.monotonic())
                    peer.now += 1
                    peer.peak = max(peer.peak, peer.now)
                    nth = peer.asked.count(text)
                time.sleep(peer.delay)
                status, value, headers = peer.answer(text, nth)
                with lock:
                    peer.now -= 1
                if value is None:
                    self.close_connection = True
                    self.connection.close()
                    return
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, said in {"content-length": str(len(data)), **headers}.items():
                    self.send_header(name, said)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def chat(self, model: str = "m-1", **options: Any) -> OpenAIChat:
        made = OpenAIChat("remoto", self.url, model, "", 5, **{"sleep": lambda s: time.sleep(s / 20), **options})
        self.chats.append(made)
        return made

    def close(self) -> None:
        for chat in self.chats:
            chat.close()
        self.server.shutdown()
        self.server.server_close()


def ok(text: str) -> tuple[int, Any, dict[str, str]]:
    return 200, {"model": "m-1-2026", "system_fingerprint": "fp_1",
                 "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                 "usage": {"prompt_tokens": 10, "completion_tokens": 2}}, {}


@pytest.fixture
def peer() -> Iterator[Peer]:
    one = Peer()
    yield one
    one.close()


def ask(text: str, **more: Any) -> Ask:
    return Ask([{"role": "user", "content": text}], max_tokens=5, **more)


def texts(replies: list[Any]) -> list[str]:
    assert all(isinstance(reply, ChatReply) for reply in replies), replies
    return [reply.text for reply in replies]


def test_replies_are_in_order_with_time_and_who_served_them(peer: Peer) -> None:
    peer.delay = 0.01
    seen: list[tuple[int, int]] = []
    found = ask_all(peer.chat(), [ask(f"t{n}") for n in range(40)], report=lambda d, t, note="": seen.append((d, t)))
    assert texts(found) == [f"T{n}" for n in range(40)]
    first = found[0]
    assert isinstance(first, ChatReply)
    assert (first.served_by, first.cached) == ("m-1-2026 fp_1", False)
    assert 9 < first.ms < 3000
    assert seen == [(n, 40) for n in range(1, 41)]
    assert ask_all(peer.chat(), []) == []


@pytest.mark.parametrize("parallel", [1, 4, 32])
def test_as_many_at_once_as_allowed_and_no_more(peer: Peer, parallel: int) -> None:
    peer.delay = 0.05
    found = ask_all(peer.chat(max_parallel=parallel), [ask(f"t{n}") for n in range(3 * parallel)])
    assert (len(found), peer.peak) == (3 * parallel, parallel)


def test_what_was_asked_is_not_asked_again(peer: Peer, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "replies.db"
    with remembered(file):
        ask_all(peer.chat(), [ask("a"), ask("b"), ask("a")])
        assert sorted(peer.asked) == ["a", "b"]
    with remembered(file):
        found = ask_all(peer.chat(), [ask("b"), ask("c"), ask("a")])
        assert texts(found) == ["B", "C", "A"]
        assert [reply.cached for reply in found if isinstance(reply, ChatReply)] == [True, False, True]
        assert sorted(peer.asked) == ["a", "b", "c"]
        ask_all(peer.chat(), [ask("a", temperature=0.7), ask("a", temperature=0.7, seed=1), ask("a", seed=9),
                              ask("a", stop=("x",))])
        assert peer.asked.count("a") == 1 + 3  # the seed is nothing at temperature 0
        ask_all(peer.chat(), [ask("a")], fresh=True)
        assert peer.asked.count("a") == 5
    ask_all(peer.chat(), [ask("a")])
    assert peer.asked.count("a") == 6, "outside `remembered` the model itself answers"


def test_another_model_or_address_has_its_own_replies(peer: Peer, tmp_path: Path) -> None:
    with remembered(tmp_path / "r.db") as replies:
        ask_all(peer.chat(), [ask("a")])
        ask_all(peer.chat("m-2"), [ask("a")])
        assert len(peer.asked) == 2
        assert replies.forget(peer.chat().identity) == 1
        ask_all(peer.chat(), [ask("a")])
        assert len(peer.asked) == 3


def test_a_remembered_reply_costs_what_the_price_is_now(peer: Peer, tmp_path: Path) -> None:
    def dollars(usd_in: float, usd_out: float) -> list[float]:
        with remembered(tmp_path / "r.db"):
            chat = peer.chat(usd_per_million_in=usd_in, usd_per_million_out=usd_out)
            return [reply.usage.usd for reply in ask_all(chat, [ask("a"), ask("a")]) if isinstance(reply, ChatReply)]

    assert dollars(1.0, 5.0) == pytest.approx([20e-6] * 2)  # 10 tokens in, 2 out
    assert dollars(10.0, 50.0) == pytest.approx([200e-6] * 2)
    assert dollars(0.0, 0.0) == [0.0, 0.0]
    assert peer.asked == ["a"]


class Local:
    """A model in this process that says nothing of who it is."""

    name = "nano"

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def chat(self, messages: Any, **more: Any) -> ChatReply:
        from bucle.core.records import Usage

        self.threads.add(threading.get_ident())
        return ChatReply("x", Usage())

    def stream(self, *_: Any, **more: Any) -> Iterator[str | ChatReply]:
        raise NotImplementedError


def test_a_model_without_identity_is_never_remembered_and_asked_one_at_a_time(tmp_path: Path) -> None:
    model = Local()
    with remembered(tmp_path / "r.db"):
        first, second = (ask_all(model, [ask("a"), ask("b")]) for _ in range(2))
    assert model.threads == {threading.get_ident()}
    assert not any(reply.cached for reply in [*first, *second] if isinstance(reply, ChatReply))


def test_a_kill_loses_no_reply_that_came(peer: Peer, tmp_path: Path) -> None:
    peer.delay = 0.05
    code = ("import sys; from pathlib import Path; from bucle.models.remote import OpenAIChat\n"
            "from bucle.models.ask import Ask, ask_all, remembered\n"
            "chat = OpenAIChat('remoto', sys.argv[1], 'm-1', '', max_parallel=2)\n"
            "with remembered(Path(sys.argv[2])):\n"
            "    ask_all(chat, [Ask([{'role': 'user', 'content': f't{n}'}], 5) for n in range(200)],\n"
            "            report=lambda d, t, note='': print(d, flush=True))")
    file = tmp_path / "r.db"
    child = subprocess.Popen([sys.executable, "-c", code, peer.url, str(file)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    done = 0
    while done < 10:
        done = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    peer.delay = 0.0
    with remembered(file):
        found = ask_all(peer.chat(), [ask(f"t{n}") for n in range(200)])
    assert texts(found) == [f"T{n}" for n in range(200)]
    assert sum(reply.cached for reply in found if isinstance(reply, ChatReply)) >= done
    assert len(peer.asked) <= 202, "only what was under way is asked twice"


def test_ctrl_c_stops_and_keeps_what_came(peer: Peer, tmp_path: Path) -> None:
    peer.delay = 0.1

    def stop(done: int, total: int, note: str = "") -> None:
        if done == 4:
            raise KeyboardInterrupt

    with remembered(tmp_path / "r.db"):
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            ask_all(peer.chat(max_parallel=2), [ask(f"t{n}") for n in range(50)], report=stop)
        assert time.monotonic() - began < 2
        asked = len(peer.asked)
        assert asked <= 6
        time.sleep(0.3)
        assert len(peer.asked) == asked, "no thread goes on asking"
        ask_all(peer.chat(), [ask(f"t{n}") for n in range(asked)])
        assert len(peer.asked) == asked, "what was under way was remembered too"


def test_one_row_that_fails_stands_in_its_place(peer: Peer) -> None:
    def answer(text: str, nth: int) -> tuple[int, Any, dict[str, str]]:
        if text == "too long":
            return 400, {"error": {"message": "context length exceeded"}}, {}
        if text == "cursed":
            return 500, {"error": {"message": "boom"}}, {}
        if text == "garbled":
            return 200, b"<html>", {}
        if text == "shy" and nth == 1:
            return 200, b"{", {}
        return ok(text)

    peer.answer = answer
    rows = [f"t{n}" for n in range(60)]
    found = ask_all(peer.chat(), [ask(t) for t in [*rows, "too long", "cursed", "garbled", "shy"]])
    assert texts(found[:60]) == rows
    assert isinstance(found[60], BadInput)
    assert isinstance(found[61], ModelUnavailable)
    assert "boom" in found[61].message
    assert isinstance(found[62], ModelUnavailable)
    assert isinstance(found[63], ChatReply), "asked again at the end"


@pytest.mark.parametrize("answer", [lambda t, n: (500, b"", {}), lambda t, n: (200, b"[]", {}),
                                    lambda t, n: (200, None, {})])
def test_a_model_that_never_answers_is_raised_soon(peer: Peer, answer: Answer) -> None:
    peer.answer = answer
    with pytest.raises(ModelUnavailable):
        ask_all(peer.chat(max_parallel=4), [ask(f"t{n}") for n in range(500)])
    assert len(peer.asked) < 60
    with pytest.raises(ModelUnavailable):
        ask_all(peer.chat(), [ask("one")])


def test_a_refused_key_is_raised_at_once(peer: Peer) -> None:
    peer.answer = lambda t, n: (401, b"", {})
    with pytest.raises(ModelUnavailable, match="refused the key"):
        ask_all(peer.chat(max_parallel=4), [ask(f"t{n}") for n in range(500)])
    assert len(peer.asked) <= 8


def test_a_provider_that_dies_midway_keeps_what_it_answered(peer: Peer, tmp_path: Path) -> None:
    peer.answer = lambda text, n: ok(text) if len(peer.asked) <= 20 else (503, b"", {})
    with remembered(tmp_path / "r.db"):
        with pytest.raises(ModelUnavailable) as caught:
            ask_all(peer.chat(max_parallel=4), [ask(f"t{n}") for n in range(100)])
        assert "remembered" in caught.value.hint
        before, peer.answer = len(peer.asked), lambda text, n: ok(text)
        found = ask_all(peer.chat(max_parallel=4), [ask(f"t{n}") for n in range(100)])
    assert texts(found) == [f"t{n}" for n in range(100)]
    assert len(peer.asked) - before in range(80, 84)


def test_one_refusal_holds_back_everybody(peer: Peer) -> None:
    turns = itertools.count()  # eight arrive at once: one of them, whichever, is refused
    peer.answer = lambda text, n: (429, b"", {"retry-after": "0.6"}) if next(turns) == 0 else ok(text)
    found = ask_all(peer.chat(max_parallel=8, sleep=time.sleep), [ask(f"t{n}") for n in range(30)])
    assert texts(found) == [f"t{n}" for n in range(30)]
    later = sorted(t - peer.times[0] for t in peer.times)
    assert sum(t < 0.55 for t in later) <= 8, "only what was under way was sent before the pause ended"


def test_a_provider_that_keeps_limiting_is_waited_for_and_then_reported(
        peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.answer = lambda text, n: (429, b"", {"retry-after": "0.01"}) if n <= 5 else ok(text)
    assert texts(ask_all(peer.chat(), [ask(f"t{n}") for n in range(5)])) == [f"t{n}" for n in range(5)]
    peer.answer = lambda text, n: (429, b"", {"retry-after": "0.01"})
    with pytest.raises(RateLimited):
        ask_all(peer.chat(), [ask("x")])
    monkeypatch.setattr(asking, "PATIENCE_S", 50.0)
    peer.answer = lambda text, n: (429, b"", {"retry-after": "100"})
    asked = len(peer.asked)
    with pytest.raises(RateLimited) as caught:
        ask_all(peer.chat(max_parallel=2), [ask(f"z{n}") for n in range(9)])
    assert (caught.value.retry_after or 0) > 90
    assert len(peer.asked) - asked <= 2, "the pause holds for all"


def test_a_pause_longer_than_patience_ends_it_for_whoever_asks_next_too(peer: Peer) -> None:
    peer.answer = lambda text, n: (429, b"", {"retry-after": "600"})
    pauses: list[float] = []
    for text, says in (("a", "a pause of 10 min"), ("b", "10 min of it are left")):
        with pytest.raises(RateLimited, match=says) as caught:
            ask_all(peer.chat(sleep=pauses.append), [ask(text)])
        assert 590 < (caught.value.retry_after or 0) <= 600
        assert caught.value.hint.startswith("try again in 10 min")
    assert (peer.asked, pauses) == (["a"], [])


def test_whoever_serves_is_told_to_wait_and_does_not(peer: Peer) -> None:
    peer.answer = lambda text, n: (429, b"", {"retry-after": "0.01"}) if n <= 5 else ok(text)
    with without_waiting() as told:
        [late] = ask_all(peer.chat(), [ask("a")])
    assert isinstance(late, RateLimited)
    assert told.retry_after == late.retry_after
    waiting = len(peer.asked)
    assert texts(ask_all(peer.chat(), [ask("a")])) == ["a"]
    assert waiting < len(peer.asked)


def test_whoever_serves_waits_for_no_pause_of_anybodys(peer: Peer) -> None:
    peer.answer = lambda text, n: (429, b"", {"retry-after": "9"}) if text == "a" else ok(text)
    pauses: list[float] = []
    chat = peer.chat(sleep=pauses.append)
    with without_waiting() as told:
        assert isinstance(ask_all(chat, [ask("a")])[0], RateLimited)
        assert isinstance(ask_all(chat, [ask("b")])[0], RateLimited), "the pause holds for all"
    assert 8 < (told.retry_after or 0) <= 9
    assert pauses == []
    assert peer.asked == ["a"]


def test_whoever_serves_gets_each_its_own_error_and_asks_nothing_twice(peer: Peer) -> None:
    peer.answer = lambda text, n: ok(text) if text == "t0" else (401 if text == "t1" else 400, b"", {})
    for parallel in (1, 4):
        before = len(peer.asked)
        with without_waiting():
            found = ask_all(peer.chat(max_parallel=parallel), [ask(f"t{n}") for n in range(6)])
        assert [type(one).__name__ for one in found] == ["ChatReply", "Refused", *["BadInput"] * 4]
        assert len(peer.asked) - before == 6
    peer.answer = lambda text, n: (404, b"", {})
    with without_waiting():
        assert all(isinstance(one, ModelUnavailable) for one in ask_all(peer.chat(), [ask("a"), ask("b")]))


def test_requests_a_minute_are_shared_by_all_callers(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MINUTE_S", 0.5)
    options = {"requests_per_minute": 10, "max_parallel": 8, "sleep": time.sleep}
    threads = [threading.Thread(target=ask_all, args=(peer.chat(**options), [ask(f"{k}{n}") for n in range(13)]))
               for k in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(peer.times)
    assert len(times) == 26
    assert all(times[n + 10] - times[n] > 0.45 for n in range(16)), "never more than ten in a minute"
    assert times[-1] - times[0] < 1.6, "and no slower than that"


def test_tokens_are_reserved_by_estimate_and_counted_as_used(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [1000.0], list[float]()
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    one = Limits(tokens=100)
    places = [one.wait(50, sleep), one.wait(50, sleep)]
    assert not slept
    one.settle(places[0], 10)
    one.settle(places[1], 10)
    one.wait(80, sleep)
    assert not slept, "what was not used is free again"
    now[0] += 20
    one.wait(30, sleep)
    assert slept == [pytest.approx(40)], "until the first three left the minute"
    one.wait(500, sleep)
    assert slept[1:] == [pytest.approx(60)], "more than a minute's tokens goes alone"
    one.pause(7)
    one.requests = one.tokens = 0
    one.wait(1, sleep)
    assert slept[2:] == [pytest.approx(7)]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be read as one" * 9, b"SQLite format 3\0"
                                     + b"\xff" * 5000])
def test_a_foreign_file_is_told_and_left_alone(peer: Peer, tmp_path: Path, content: bytes,
                                               caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "r.db"
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING), remembered(file) as replies:
        assert texts(ask_all(peer.chat(), [ask("a")])) == ["A"]
        assert "not remembered" in replies.problem
    assert "not remembered" in caplog.text
    assert file.read_bytes() == content


def test_another_database_is_left_alone_and_a_damaged_one_is_set_aside(peer: Peer, tmp_path: Path) -> None:
    other = tmp_path / "ledger.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with remembered(other) as replies:
        ask_all(peer.chat(), [ask("a")])
        assert "another database" in replies.problem
    file = tmp_path / "r.db"
    with remembered(file):
        ask_all(peer.chat(), [ask(f"t{n}" * 100) for n in range(200)])
    data = bytearray(file.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    file.write_bytes(data)
    with remembered(file) as replies:
        assert texts(ask_all(peer.chat(), [ask("a")])) == ["A"]
        assert "damaged" in replies.problem
    assert (tmp_path / "r.db.damaged").exists()
    with remembered(file) as replies:
        again = ask_all(peer.chat(), [ask("a")])[0]
        assert isinstance(again, ChatReply)
        assert (again.cached, replies.problem) == (True, "")


def test_what_a_provider_does_not_support_is_left_out_from_then_on(peer: Peer) -> None:
    seen: list[dict[str, Any]] = []
    chat = peer.chat()
    post = chat._client.post_timed

    def picky(path: str, body: dict[str, Any]) -> Any:
        seen.append(dict(body))
        for field in ("temperature", "seed"):
            if field in body:
                raise BadInput(f"remoto refused the request (HTTP 400): Unsupported value: '{field}'")
        return post(path, body)

    chat._client.post_timed = picky  # type: ignore[method-assign, assignment]
    assert texts(ask_all(chat, [ask("a", seed=4)])) == ["A"]
    assert texts(ask_all(chat, [ask("b", seed=4)])) == ["B"]
    assert len(seen) == 4
    assert "seed" not in seen[-1]
