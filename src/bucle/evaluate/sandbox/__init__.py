"""Runs code that a model wrote, against tests, where it can reach nothing: no network, no file of the user's, no other
process, bounded time, memory and output. Where the machine cannot give that, nothing runs (`refusal`)."""

from bucle.evaluate.sandbox.run import LIMITS, Limits, Outcome, idle, python_of, refusal, run_tests, tried

__all__ = ["LIMITS", "Limits", "Outcome", "idle", "python_of", "refusal", "run_tests", "tried"]
