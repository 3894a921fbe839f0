"""Gates as tests: `pytest --bucle DIR` makes one of each gate in bucle.yaml; a mark, a fixture and a function do the
same in tests of one's own. pytest loads this file in every run, so it imports nothing of Bucle until one is used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from bucle.loop.api import Project

__all__ = ["assert_gate"]

_FILE = "bucle.yaml"
_OPENED: dict[Path, Project] = {}
_MEASURED: dict[tuple[Any, ...], dict[str, Any]] = {}


def assert_gate(
    *gates: str, data: str | Path, project: Project | str | Path = ".", task: str = "", release: str = "production"
) -> dict[str, Any]:
    """Measure a release's candidate of `task` (the first) on the rows of `data` and assert that `gates` hold (none: the
    task's own in bucle.yaml): `assert_gate("accuracy >= 0.9 at 95%", data="fresh.csv", project="support")`.

    Returns what `bucle evaluate` does: `metrics` with intervals, `overlap`, `gates`. Raises AssertionError with each
    failed gate, the figure measured and the one needed; BucleError where nothing can be measured.
    """
    opened = _open(Path(project)) if isinstance(project, (str, Path)) else project
    found = _measure(opened, task, Path(data), release, gates)
    checks = found["gates"]["checks"]
    if not checks:
        raise AssertionError(f"no gate was checked on {data}: bucle.yaml has none for `{found['task']}`")
    if failed := [check for check in checks if not check["passed"]]:
        where = f"{found['candidate']} (version {found['release']}) on {found['rows']} rows of {data}"
        raise AssertionError("\n".join([where, *map(_told, failed)]))
    return found


@pytest.fixture(scope="module")
def bucle_project(request: pytest.FixtureRequest) -> Project:
    """The project of `--bucle DIR`; without it, the nearest bucle.yaml in the test's folder or above."""
    return _of(request.config, Path(str(request.path)))


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bucle", "Bucle: gates as tests")
    group.addoption("--bucle", metavar="DIR", help="A Bucle project: each gate of its bucle.yaml is a test.")
    group.addoption(
        "--bucle-data",
        metavar="FILE",
        help="Check the gates on the rows of FILE; without it they are as the project's latest `bucle run` found them.",
    )
    group.addoption("--bucle-task", metavar="TASK", default="", help="Only this task's gates.")
    group.addoption("--bucle-release", metavar="RELEASE", default="production", help="With --bucle-data: the release.")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "bucle_gate(*gates, data, task='', release='production'): the test passes only if these gates hold on the rows "
        "of the file `data`; see docs/evaluate.md",
    )
    if given := config.getoption("--bucle"):
        path = _file_of(Path(given))
        if not path.is_file():
            raise pytest.UsageError(f"--bucle {given}: there is no {_FILE} there. bucle init starts a project.")
        if config.getoption("--bucle-data") and not Path(config.getoption("--bucle-data")).is_file():
            raise pytest.UsageError(f"--bucle-data {config.getoption('--bucle-data')} does not exist.")
        config.args.append(str(path))


def pytest_unconfigure() -> None:
    while _OPENED:
        _OPENED.popitem()[1].close()
    _MEASURED.clear()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix not in (".yaml", ".yml") or not (given := parent.config.getoption("--bucle")):
        return None
    if file_path.resolve() != _file_of(Path(given)).resolve():
        return None
    made: pytest.Collector = _Gates.from_parent(parent, path=file_path)
    return made


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """The gates of a test's marks, before its body."""
    for mark in item.iter_markers("bucle_gate"):
        from bucle.core.errors import BucleError

        unknown = set(mark.kwargs) - {"data", "task", "release"}
        if unknown or "data" not in mark.kwargs:
            wrong = f"does not know {', '.join(sorted(unknown))}" if unknown else "needs data=FILE"
            pytest.fail(f"bucle_gate {wrong}: bucle_gate(*gates, data, task, release)", pytrace=False)
        said = ""
        try:
            project = _of(item.config, item.path)
            options = {**mark.kwargs, "data": _data(Path(mark.kwargs["data"]), item.path, project)}
            assert_gate(*mark.args, project=project, **options)
        except (AssertionError, BucleError) as error:
            said = str(error)
        if said:  # out here, so that no traceback of how it was found stands above it
            pytest.fail(said, pytrace=False)


class _Gates(pytest.File):
    """The bucle.yaml of `--bucle`."""

    def collect(self) -> Iterator[pytest.Item]:
        from bucle.core.config import load_project
        from bucle.core.errors import BucleError

        try:
            tasks = load_project(self.path).tasks
        except BucleError as error:
            raise self.CollectError(str(error)) from None
        wanted = self.config.getoption("--bucle-task")
        if wanted and wanted not in tasks:
            raise self.CollectError(f"--bucle-task {wanted}: {self.path} has {', '.join(tasks) or 'no task'}.")
        gates = [(name, gate) for name, task in tasks.items() if wanted in ("", name) for gate in task.gates]
        if not gates:
            raise self.CollectError(f"{self.path} has no gates: write `gates: [accuracy >= 0.8 at 95%]` under a task.")
        for task, gate in gates:
            yield _GateItem.from_parent(self, name=f"{task}: {gate}", task=task, gate=gate)


class _GateItem(pytest.Item):
    """One gate of one task."""

    def __init__(self, *, task: str, gate: str, **given: Any) -> None:
        super().__init__(**given)
        self._task, self._gate = task, gate

    def runtest(self) -> None:
        data = self.config.getoption("--bucle-data")
        project = _open(self.path)
        if data:
            release = self.config.getoption("--bucle-release")
            gates = tuple(project.config.tasks[self._task].gates)
            found = _measure(project, self._task, Path(data), release, gates, own=True)["gates"]
            if self._gate in found["elsewhere"]:
                pytest.skip("a file of rows cannot tell; bucle run checks it")
            checks = found["checks"]
        else:
            checks = [c for gate in _latest(project) if gate["task"] == self._task for c in gate["checks"]]
        check = next((one for one in reversed(checks) if one["gate"] == self._gate), None)
        if check is None:
            raise _Failed("the latest run did not check this gate\n  -> bucle run")
        if not check["passed"]:
            raise _Failed(_told(check))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from bucle.core.errors import BucleError

        if isinstance(excinfo.value, (_Failed, BucleError)):
            return f"{self._task}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"gate {self.name}"


class _Failed(Exception):
    """A gate that does not hold; its text is all there is to say."""


def _told(check: dict[str, Any]) -> str:
    figures = [f"{word} {check[word]:.4g}" for word in ("measured", "needed") if check[word] is not None]
    lines = [f"gate failed: {check['gate']}", ", ".join(figures), check["note"]]
    return "\n  ".join(line for line in lines if line)


def _measure(
    project: Project, task: str, data: Path, release: str, gates: tuple[str, ...], *, own: bool = False
) -> dict[str, Any]:
    """An evaluation, once for the same question. `own`: `gates` are the task's, of which some cannot be told here."""
    stamp = data.stat().st_mtime_ns if data.is_file() else 0
    key = (project.workspace.root.resolve(), task, data.resolve(), stamp, release, gates, own)
    if key not in _MEASURED:
        name = task or next(iter(project.config.tasks), "")
        asked = None if own or not gates else list(gates)
        _MEASURED[key] = project.evaluate(name, data, release=release, gates=asked)
    return _MEASURED[key]


def _latest(project: Project) -> list[dict[str, Any]]:
    gates: list[dict[str, Any]] = project.story()["gates"]
    return gates


def _open(path: Path) -> Project:
    from bucle.loop.api import Project

    file = _file_of(path).resolve()
    if file not in _OPENED:
        _OPENED[file] = Project(file)
    return _OPENED[file]


def _of(config: pytest.Config, test: Path) -> Project:
    if given := config.getoption("--bucle"):
        return _open(Path(given))
    for folder in test.resolve().parents:
        if (folder / _FILE).is_file():
            return _open(folder)
    pytest.fail(f"no {_FILE} in {test.parent} or above: pytest --bucle DIR names the project", pytrace=False)


def _data(path: Path, test: Path, project: Project) -> Path:
    """A file named in a test: relative to the test, to the project, or to where pytest runs."""
    for folder in (test.parent, project.workspace.root, Path()):
        if (folder / path).is_file():
            return folder / path
    return path


def _file_of(path: Path) -> Path:
    return path if path.suffix in (".yaml", ".yml") else path / _FILE
