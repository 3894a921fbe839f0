"""The story of a project as one self-contained HTML report: `render_report(story, language="es")`."""

from __future__ import annotations

from bucle.loop.report.model import STAGES, Story, read_story
from bucle.loop.report.render import render_report

__all__ = ["STAGES", "Story", "read_story", "render_report"]
