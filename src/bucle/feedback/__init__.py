"""Feedback: ratings and corrections of traces become the next dataset version."""

from bucle.feedback.build import FeedbackRows, build_rows

__all__ = ["FeedbackRows", "build_rows"]
