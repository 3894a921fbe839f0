"""Progress on standard error: a live display on a terminal, a line a step elsewhere, nothing with `quiet`."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Display", "LineDisplay", "LiveDisplay", "QuietDisplay", "make_display"]


class Display(Protocol):
    """Where a run's progress goes."""

    def start(self, stage: str, title: str) -> None: ...
    def update(self, done: int, total: int, note: str = "") -> None: ...
    def finish(self, status: str, seconds: float, note: str = "") -> None: ...
    def say(self, text: str) -> None: ...
    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class QuietDisplay:
    """Says nothing."""

    def start(self, stage: str, title: str) -> None:
        return

    def update(self, done: int, total: int, note: str = "") -> None:
        return

    def finish(self, status: str, seconds: float, note: str = "") -> None:
        return

    def say(self, text: str) -> None:
        return

    def __enter__(self) -> QuietDisplay:
        return self

    def __exit__(self, *exc: object) -> None:
        return


class LineDisplay(QuietDisplay):
    """One line when a step ends, and one with the time left every ten seconds while it runs."""

    EVERY_S = 10.0

    def __init__(self) -> None:
        self.stage = self.title = ""
        self.began = self.said = time.monotonic()
        self._total, self._base, self._last = -1, 0, 0

    def start(self, stage: str, title: str) -> None:
        self.stage, self.title = stage, title
        self.began = self.said = time.monotonic()
        self._total, self._base, self._last = -1, 0, 0

    def update(self, done: int, total: int, note: str = "") -> None:
        """A count that starts again, or counts something else, is a new phase: its time is its own."""
        now = time.monotonic()
        if done < self._last or (total != self._total and self._last == self._total):
            self.began, self._base = now, done
        self._total, self._last = total, done
        if total and done > self._base and now - self.said >= self.EVERY_S:
            self.said = now
            left = (now - self.began) / (done - self._base) * (total - done)
            self.say(f"  ...  {self.stage:<10} {self.title}: {done}/{total}, about {left:.0f} s left {note}".rstrip())

    def finish(self, status: str, seconds: float, note: str = "") -> None:
        mark = {"done": "done", "cached": "kept", "failed": "FAIL"}.get(status, status)
        self.say(f"  {mark:<4} {self.stage:<10} {self.title} ({seconds:.1f} s){' - ' + note if note else ''}")

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class LiveDisplay(QuietDisplay):
    """A bar with time left for the step that runs, a line for each that ended."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar: Progress = Progress(
            TextColumn("[cyan]{task.fields[stage]:<10}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None
        self._total, self._last = -1, 0
        self.stage = self.title = ""

    def __enter__(self) -> LiveDisplay:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def start(self, stage: str, title: str) -> None:
        self.stage, self.title = stage, title
        self._total, self._last = -1, 0
        self._task = self._bar.add_task(title, total=None, stage=stage, note="")

    def update(self, done: int, total: int, note: str = "") -> None:
        if self._task is not None:
            if done < self._last or (total != self._total and self._last == self._total):
                self._bar.reset(self._task)
            self._total, self._last = total, done
            self._bar.update(self._task, completed=done, total=total or None, note=note)

    def finish(self, status: str, seconds: float, note: str = "") -> None:
        from rich.markup import escape

        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
        mark = {"done": "[green]✓[/]", "cached": "[dim]=[/]", "failed": "[red]✗[/]"}.get(status, status)
        self._bar.console.print(
            f" {mark} [cyan]{self.stage:<10}[/] {escape(self.title)} [dim]{seconds:.1f} s[/] {escape(note)}",
            highlight=False,
        )

    def say(self, text: str) -> None:
        from rich.markup import escape

        self._bar.console.print(escape(text), highlight=False)


def make_display(*, quiet: bool = False) -> Display:
    """A live display on a terminal, lines elsewhere."""
    if quiet:
        return QuietDisplay()
    return LiveDisplay() if sys.stderr.isatty() else LineDisplay()
