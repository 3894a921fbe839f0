"""Code and tests into the sandbox, verdicts out of it."""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from bucle.core.errors import Infrastructure
from bucle.core.ports import Report

__all__ = ["LIMITS", "Limits", "Outcome", "idle", "python_of", "refusal", "run_tests", "tried"]

JAIL = Path(__file__).with_name("jail.py")
LONGEST = 200_000
"""Characters of code, or of tests."""
MACHINES = ("x86_64", "aarch64")
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Limits:
    """What one run of code and tests may take: seconds of wall clock and of processor, megabytes of memory (address
    space), and of what it writes. It may have threads, and no process beside its own."""

    wall_s: int = 10
    cpu_s: int = 5
    memory_mb: int = 512
    file_mb: int = 16


LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """Whether the code passed its tests, and how it failed where not. `faked`: it made the tests look passed."""

    passed: bool
    error: str = ""
    faked: bool = False


def python_of(text: str) -> str:
    """The Python in what a model wrote: the longest fenced block that parses, else the longest; the whole text where
    there is no fence."""
    blocks = [match[3] for match in _FENCE.finditer(text.replace("\r\n", "\n")) if match[2].lower() in
              ("", "py", "python", "python3")]
    if not blocks:
        return text
    return max(blocks, key=lambda block: (_parses(block), len(block)))


def idle(tests: str) -> bool:
    """Whether tests only define what nobody calls (HumanEval's `check` without its call): any code would pass."""
    try:
        body = ast.parse(tests.replace("\r\n", "\n")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return not any(
        node.name.startswith("test") if isinstance(node, ast.FunctionDef) else bool(node.bases)
        if isinstance(node, ast.ClassDef) else not isinstance(node, ast.AsyncFunctionDef | ast.Import | ast.ImportFrom)
        and any(isinstance(part, ast.Assert | ast.Call | ast.Raise) for part in ast.walk(node))
        for node in body)


@cache
def refusal() -> str:
    """Why nothing can be run here ("" where it can): tried out once a process."""
    if sys.platform != "linux" or os.uname().machine not in MACHINES:
        return f"it needs Linux on {' or '.join(MACHINES)}, and this is {sys.platform}"
    verdict = _jailed("x = 1", "assert x == 1", LIMITS)
    if verdict.get("passed"):
        return ""
    return f"this system does not allow it ({verdict.get('broken') or verdict.get('error')})"


def run_tests(code: str, tests: str, limits: Limits = LIMITS) -> Outcome:
    """Run `code`, then `tests` beside its names (also importable from `solution`), then the functions `test…` and the
    unittest cases that the tests define. Passed means that all of it ran to its end: leaving early is a failure, and
    code that claims success is run again on tests that cannot be passed, which tells a claim from a pass.

    In there is only the standard library of this Python; no network, no home, no `/etc`, no `/proc`. What can be read:
    the standard library and the system's shared libraries. Raises Infrastructure where the machine cannot isolate it
    (`refusal`).
    """
    if why := refusal():
        raise Infrastructure(f"Code cannot be tried here, since it cannot be kept apart from the rest: {why}.",
                             "measure it on Linux with user namespaces (in a container: with the rights to make them), "
                             "or in a virtual machine")
    if max(len(code), len(tests)) > LONGEST:
        return Outcome(False, f"more than {LONGEST:,} characters")
    verdict = _jailed(code, tests, limits)
    if "broken" in verdict:
        raise Infrastructure(f"The sandbox broke: {verdict['broken']}.", "try again")
    if not verdict.get("passed"):
        return Outcome(False, verdict.get("error", "it failed"))
    name = f"test_{secrets.token_hex(8)}"
    if _jailed(code, f"{tests}\n\n\ndef {name}():\n    raise AssertionError({name!r})\n", limits).get("passed"):
        return Outcome(False, "it claims that tests pass that cannot be passed", faked=True)
    return Outcome(True)


def tried(jobs: Sequence[tuple[str, str]], limits: Limits = LIMITS, *, report: Report | None = None) -> list[Outcome]:
    """`run_tests` of each (code, tests), as many at once as there are processors; equal ones run once. In order."""
    distinct = list(dict.fromkeys(jobs))
    if distinct:
        refusal()
    done: dict[tuple[str, str], Outcome] = {}
    with ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)) as pool:
        running = {pool.submit(run_tests, code, tests, limits): (code, tests) for code, tests in distinct}
        try:
            for future in as_completed(running):
                done[running[future]] = future.result()
                if report:
                    report(len(done), len(distinct), "tests")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [done[job] for job in jobs]


def _jailed(code: str, tests: str, limits: Limits) -> dict[str, str]:
    with TemporaryDirectory(prefix="bucle-box-") as root:
        libraries = sysconfig.get_paths()["stdlib"]
        shown = [libraries, str(Path(sys.base_prefix) / "lib"), "/usr/lib", "/usr/lib64", "/lib",
                 "/lib64", "/etc/ld.so.cache"]
        job = {"code": code, "tests": tests, "limits": asdict(limits), "root": root,
               "shown": list(dict.fromkeys(shown)), "hidden": [f"{libraries}/site-packages", "/usr/lib/python3"]}
        try:
            program = subprocess.Popen(  # noqa: S603 -- this Python, a file of ours
                [getattr(sys, "_base_executable", "") or sys.executable, "-I", "-S", "-B", str(JAIL)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, cwd="/",
                start_new_session=True)
        except OSError as error:
            return {"broken": str(error)}
        try:
            said, complaint = program.communicate(json.dumps(job).encode(), timeout=limits.wall_s)
        except subprocess.TimeoutExpired:
            return {"error": f"it took more than {limits.wall_s} s"}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
    try:
        found = json.loads(said)
    except ValueError:
        last = complaint.decode(errors="replace").strip().splitlines()
        return {"broken": last[-1][:200] if last else "it said nothing"}
    return {str(key): str(value) for key, value in found.items()}


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
