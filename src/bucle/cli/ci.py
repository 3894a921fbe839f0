"""`--junit` and `--summary`: what a build server reads, written whether a verb succeeds, fails its gates or breaks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bucle.core.errors import BadInput, BucleError, ConfigError, GateFailed, NotFound

if TYPE_CHECKING:
    from bucle.evaluate.reporting import Suite
    from bucle.loop.api import Project

__all__ = ["Outputs", "report_options"]

_GITHUB = "GITHUB_STEP_SUMMARY"


def report_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--junit FILE` and `--summary[=FILE]`; their values go into `Outputs`."""
    command = click.option(
        "--summary",
        is_flag=False,
        flag_value=_GITHUB,
        default=None,
        help=f"Append a Markdown table to a file (--summary=FILE.md); alone, to ${_GITHUB} as GitHub Actions shows it.",
    )(command)
    return click.option("--junit", type=click.Path(), help="Write JUnit XML: a test case for each gate.")(command)


class Outputs:
    """Where to write. Both places are checked before anything runs. Raises ConfigError or BadInput."""

    def __init__(self, junit: str | None, summary: str | None) -> None:
        self.junit = Path(junit) if junit else None
        self.summary = _summary_file(summary)
        for path in (self.junit, self.summary):
            if path is not None and not path.parent.is_dir():
                raise BadInput(f"{path.parent} is no folder to write {path.name} into.", f"mkdir -p {path.parent}")
            if path is not None and path.is_dir():
                raise BadInput(f"{path} is a folder.", "Give the name of a file.")

    @contextmanager
    def around(self, title: str, project: Project | None = None) -> Iterator[Outputs]:
        """What fails inside is written too, then raised: with the gates of `project`'s latest run where it was one of
        them that failed."""
        try:
            yield self
        except BucleError as error:
            if self.junit or self.summary:
                from bucle.evaluate.reporting import broken

                gate = isinstance(error, GateFailed)
                if not (gate and project and self.of_run(_story(project), failed=True)):
                    self.write(title, [broken(title, error.message, error.hint, gate=gate)])
            raise
        except Exception as error:  # a fault of Bucle's own: the build server is told that nothing was measured
            if self.junit or self.summary:
                from bucle.evaluate.reporting import broken

                self.write(title, [broken(title, f"it broke off: {type(error).__name__}", "See the log of this step.")])
            raise

    def of_run(self, story: Mapping[str, Any], *, gates: bool = True, failed: bool = False) -> bool:
        """What a run found: its gates, and every comparison in the summary; `gates` False: only that each comparison
        recommends something; `failed`: nothing is written unless one of them failed. Whether it was written."""
        if not (self.junit or self.summary) or not story:
            return False
        from bucle.evaluate.reporting import comparison_table, of_comparisons, of_story

        suites = of_story(story) if gates else of_comparisons(story["comparisons"])
        if failed and all(case.passed for suite in suites for case in suite.cases):
            return False
        self.write(str(story["project"]["name"]), suites, "\n".join(map(comparison_table, story["comparisons"])))
        return True

    def write(self, title: str, suites: list[Suite], more: str = "") -> None:
        """Write what was asked for; `more` is Markdown below the summary's table."""
        if not (self.junit or self.summary):
            return
        from bucle.evaluate.reporting import junit, summary

        try:
            if self.junit:
                self.junit.write_text(junit(suites), encoding="utf-8")
            if self.summary:
                with self.summary.open("a", encoding="utf-8") as file:
                    file.write(summary(title, suites, more))
        except OSError as error:
            raise BadInput(f"{error.filename} cannot be written: {error.strerror}.", "Give another file.") from error


def _story(project: Project) -> dict[str, Any]:
    """The project's latest run; empty before the first."""
    try:
        return project.story()
    except NotFound:
        return {}


def _summary_file(given: str | None) -> Path | None:
    if given is None:
        return None
    if given == _GITHUB:
        path = os.environ.get(_GITHUB, "")
        if not path:
            raise ConfigError(f"{_GITHUB} is not set: this is no GitHub Actions step.", "--summary=FILE.md")
        return Path(path)
    if Path(given).suffix.lower() != ".md" and given != os.environ.get(_GITHUB):
        raise ConfigError(  # `--summary data.csv` must never write into data.csv
            f"--summary {given}: a summary is Markdown.", "--summary=FILE.md, or --summary at the end of the command"
        )
    return Path(given)
