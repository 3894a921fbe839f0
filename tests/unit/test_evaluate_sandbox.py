"""Code that a model wrote, tried where it can reach nothing: attacks on the sandbox, and on its verdict."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from bucle.core.errors import Infrastructure
from bucle.evaluate.sandbox import Limits, Outcome, idle, python_of, refusal, run_tests, tried
from bucle.evaluate.sandbox import run as sandbox_run

can = pytest.mark.skipif(bool(refusal()), reason=f"no sandbox here: {refusal()}")
QUICK = Limits(wall_s=6, cpu_s=2, memory_mb=256, file_mb=4)
ASSERT = "assert f(2) == 4"


@can
@pytest.mark.parametrize(
    ("code", "tests", "passed"),
    [
        ("def f(x):\n    return x * 2", ASSERT, True),
        ("def f(x):\n    return x * 3", ASSERT, False),
        ("def f(x):\n  return x *", ASSERT, False),
        ("", ASSERT, False),
        ("def f(x): return x * 2", "from solution import f\ndef test_two():\n    assert f(2) == 4", True),
        ("def f(x): return x * 2", "def test_two():\n    assert f(2) == 5", False),
        ("def f(x): return x * 2", "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
         "        self.assertEqual(f(2), 4)", True),
        ("def f(x): return x * 3", "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
         "        self.assertEqual(f(2), 4)", False),
        ("def año(ñ): return 'ñ' + ñ\n", "assert año('😀') == 'ñ😀'", True),
        ("def f(x):\r\n    return x * 2\r\n", ASSERT + "\r\n", True),
        ("import json, re, math, sqlite3, asyncio, zlib, decimal\nasync def g(): return 4\ndef f(x): "
         "return asyncio.run(g())", ASSERT, True),
        ("from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n    with ThreadPoolExecutor(3) as pool:\n"
         "        return sum(pool.map(int, [1, 3]))", ASSERT, True),
        ("def f(x):\n    with open('notes.txt', 'w') as file: file.write('4')\n"
         "    return int(open('notes.txt').read())", ASSERT, True),
    ],
)  # fmt: skip
def test_honest_code(code: str, tests: str, passed: bool) -> None:
    found = run_tests(code, tests, QUICK)
    assert found.passed is passed, found
    assert not found.faked
    assert bool(found.error) is not passed


ESCAPES = {
    "fork": "import os\nos.fork()",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError as e: raise",
    "multiprocessing": "import multiprocessing as m\np = m.get_context('fork').Process(target=print); p.start()",
    "program": "import subprocess\nsubprocess.run(['/bin/true'], check=True)",
    "exec": "import os\nos.execv('/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2', ['x'])",
    "memory": "a = bytearray(2 ** 30)",
    "memory bit by bit": "a = []\nwhile True: a.append(bytearray(2 ** 20))",
    "memory by a map": "import mmap\nmmap.mmap(-1, 2 ** 30)",
    "loop in C": "sum(range(10 ** 12))",
    "sleep": "import time\ntime.sleep(100)",
    "loop that catches": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "big file": "f = open('x', 'wb')\nfor _ in range(100): f.write(bytes(2 ** 20)); f.flush()",
    "many files": "for i in range(5000): open(f'x{i}', 'w').close()",
    "socket": "import socket\nsocket.socket()",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX)",
    "passwd": "open('/etc/passwd').read()",
    "environ of others": "open('/proc/1/environ').read()",
    "processes": "import os\nos.listdir('/proc')",
    "write outside": "open('/usr/x', 'w')",
    "write to the root": "open('/x', 'w')",
    "write to the library": "import os\nopen(os.__file__, 'a')",
    "site packages": "import numpy",
    "parent": "import os\nos.kill(os.getppid(), 9)\nimport time; time.sleep(0.2)\nassert os.getppid() != 1",
    "everyone": "import os\nos.kill(-1, 9)",
    "namespaces": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'/', b'/', None, 32 | 4096, None) == 0",
    "ptrace": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "root": "import os\nos.setuid(0)",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2 ** 40, 2 ** 40))",
    "pseudoterminal": "import os\nos.openpty()",
    "deep": "def g(): g()\nimport sys; sys.setrecursionlimit(10 ** 9); g()",
    "crash": "import ctypes\nctypes.string_at(0)",
}


@pytest.fixture(scope="module")
def attacked() -> dict[str, tuple[Outcome, float]]:
    """How each attack ended, and after how many seconds; some at once, since they mostly wait."""
    def attack(name: str) -> tuple[str, tuple[Outcome, float]]:
        began = time.monotonic()
        found = run_tests(ESCAPES[name], "assert True", Limits(wall_s=4, cpu_s=1, memory_mb=256, file_mb=4))
        return name, (found, time.monotonic() - began)

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(attack, ESCAPES))


@can
@pytest.mark.parametrize("name", ESCAPES)
def test_attacks_fail(name: str, attacked: dict[str, tuple[Outcome, float]]) -> None:
    found, seconds = attacked[name]
    assert not found.passed
    assert found.error
    assert seconds < 8


FAKES = {
    "exit": "import sys\nsys.exit(0)",
    "late exit": "import sys\ndef f(x): sys.exit(0)",
    "os._exit": "import os\nos._exit(0)",
    "late os._exit": "import os\ndef f(x): os._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 5",
    "print": "print('{\"passed\": \"yes\"}', flush=True)\nraise SystemExit",
    "write to all": "import os\nfor n in range(64):\n    try: os.write(n, b'{\"passed\": \"yes\"}')\n"
                    "    except OSError: pass\nos._exit(0)",
    "no assertion": "import builtins\nclass Quiet(AssertionError): pass\nbuiltins.AssertionError = Quiet\n"
                    "def f(x): return 5",
    "trace": "import sys\nsys.settrace(lambda *a: None)\ndef f(x): return 5",
    "kill": "import os, signal\nos.kill(os.getpid(), 15)",
}  # fmt: skip


@can
@pytest.mark.parametrize("name", FAKES)
def test_leaving_early_is_no_pass(name: str) -> None:
    assert not run_tests(FAKES[name], "assert f(2) == 4", QUICK).passed


@can
def test_what_tests_stand_on_cannot_be_replaced() -> None:
    code = ("import unittest\nunittest.TestCase.assertEqual = lambda *a: None\nimport builtins\n"
            "builtins.abs = lambda x: 4\ndef f(x): return 5")
    case = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(2), 4)"
    assert not run_tests(code, case, QUICK).passed
    assert not run_tests(code, "assert abs(f(2)) == 4", QUICK).passed


@can
def test_a_stolen_proof_is_found_out() -> None:
    """Code that reads the secret itself and tells the judge: the same claim on tests that nobody can pass."""
    code = """
import json, os
for n in range(3, 64):
    try: secret = os.read(n, 64)
    except OSError: continue
    if len(secret) == 32: break
for n in range(3, 64):
    try: os.write(n, json.dumps({"secret": secret.decode()}).encode())
    except OSError: pass
os._exit(0)
"""
    found = run_tests(code, "assert False", QUICK)
    assert not found.passed
    assert found.faked


@can
def test_no_network_even_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        port = server.getsockname()[1]
        found = run_tests(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)", "pass", QUICK)
        assert not found.passed
        with pytest.raises(TimeoutError):
            server.accept()


@can
def test_what_can_be_seen_is_the_library_only(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    os.environ["BUCLE_SECRET_OF_A_TEST"] = "x"
    try:
        found = run_tests("import os", f"""
assert not os.path.exists({str(secret)!r})
assert {Path(sys.base_prefix).is_relative_to(Path.home())} or not os.path.exists({str(Path.home())!r})
assert not os.path.exists({str(Path(__file__).resolve())!r})
assert not set(os.environ) - {{"LC_CTYPE"}}, os.environ
assert os.getcwd() == "/box" and os.listdir(".") == []
assert set(os.listdir("/")) <= {{"box", "tmp", "dev", "etc", "lib", "lib64", "usr", "opt", "home", "root"}}
assert os.listdir("/etc") == ["ld.so.cache"]
assert os.getuid() == 65534
""", QUICK)  # fmt: skip
    finally:
        del os.environ["BUCLE_SECRET_OF_A_TEST"]
    assert found.passed, found.error


@can
def test_nothing_is_left_behind() -> None:
    import tempfile

    before = set(Path(tempfile.gettempdir()).glob("bucle-box-*"))
    run_tests("import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()", "pass", QUICK)
    assert set(Path(tempfile.gettempdir()).glob("bucle-box-*")) <= before


@can
def test_nothing_outlives_who_asked() -> None:
    """Bucle killed outright while code sleeps: the sandbox's processes go with it."""
    import signal
    import subprocess

    def family() -> set[str]:
        """The process, its children and theirs."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                parents[stat.parent.name] = stat.read_text().rsplit(")", 1)[1].split()[1]
        found = {str(asker.pid)}
        while more := {child for child, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    asker = subprocess.Popen([sys.executable, "-c", "from bucle.evaluate.sandbox import *\n"
                              "run_tests('import time; time.sleep(50)', 'pass', Limits(wall_s=60))"])
    try:
        until = time.monotonic() + 10
        stable = 0
        while stable < 5 and time.monotonic() < until:  # the first, quick try is over once four stay
            time.sleep(0.1)
            stable = stable + 1 if len(everyone := family()) == 4 else 0
        assert stable == 5
    finally:
        asker.send_signal(signal.SIGKILL)
        asker.wait()
    for _ in range(50):
        if not any(Path("/proc", one).exists() for one in everyone):
            break
        time.sleep(0.1)
    assert not [one for one in everyone if Path("/proc", one).exists()]


@can
def test_many_at_once_and_equal_ones_once() -> None:
    seen: list[int] = []
    jobs = [("def f(x): return x * 2", ASSERT), ("def f(x): return 0", ASSERT)] * 10
    found = tried(jobs, QUICK, report=lambda done, total, note="": seen.append(done))
    assert [one.passed for one in found] == [True, False] * 10
    assert seen == [1, 2]
    assert threading.active_count() < 20


@can
def test_too_long_is_a_failure() -> None:
    assert not run_tests("x = 1\n" * 100_000, "pass", QUICK).passed


def test_without_isolation_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox_run, "_jailed", lambda *_: {"broken": "unshare: Operation not permitted"})
    refusal.cache_clear()
    try:
        with pytest.raises(Infrastructure, match="cannot be kept apart"):
            run_tests(f"open({str(tmp_path / 'ran')!r}, 'w')", "pass", QUICK)
    finally:
        monkeypatch.undo()
        refusal.cache_clear()
    assert not (tmp_path / "ran").exists()


def test_the_python_in_a_reply() -> None:
    assert python_of("x = 1") == "x = 1"
    assert python_of("Claro:\n```python\nx = 1\n```\nListo.") == "x = 1\n"
    assert python_of("```\nx = 1\n```\n```py\nx = 1\ny = 2\n```\n```text\nmucho más largo que los otros dos\n```") == (
        "x = 1\ny = 2\n")
    assert python_of("```python\nx = (\n```\n```python\ny\n```") == "y\n"
    assert python_of("```python\r\nx = 1\r\n```") == "x = 1\n"
    assert python_of("```python\nsin cerrar = 1\n") == "sin cerrar = 1\n"
    began = time.monotonic()
    python_of("```\n" * 20_000)
    python_of("```python " * 20_000)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("tests", "nothing"),
    [
        ("assert f(1) == 2", False), ("def check(c):\n    assert c(1) == 2", True), ("", True),
        ("import math\nX = 3", True),
        ("def check(c):\n    assert c(1) == 2\ncheck(f)", False), ("def test_it(): assert f(1) == 2", False),
        ("for x in (1, 2):\n    assert f(x)", False), ("class T(unittest.TestCase):\n    pass", False),
        ("x = (", False),
    ],
)  # fmt: skip
def test_tests_that_test_nothing(tests: str, nothing: bool) -> None:
    assert idle(tests) is nothing
