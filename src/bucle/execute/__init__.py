"""Running steps: cache key, reuse, resume, progress."""

from bucle.execute.progress import Display, QuietDisplay, make_display
from bucle.execute.steps import Outcome, Runner, StepContext, StepRecord, project_lock

__all__ = ["Display", "Outcome", "QuietDisplay", "Runner", "StepContext", "StepRecord", "make_display", "project_lock"]
