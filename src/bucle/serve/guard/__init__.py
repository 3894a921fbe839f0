"""Checks on what goes in and comes out: personal data, secrets, injections, abuse, leaks of the prompt, language, form.

`GuardSet` holds those that the `serve: guards:` section of bucle.yaml asks for.
"""

from bucle.serve.guard.checks import InjectionGuard, PersonalDataGuard, ScoreGuard, inspect, summary
from bucle.serve.guard.leak import Secret
from bucle.serve.guard.models import Endpoint
from bucle.serve.guard.rules import Checked, GuardSet, refusal, stored
from bucle.serve.guard.stream import StreamGuard

__all__ = [
    "Checked",
    "Endpoint",
    "GuardSet",
    "InjectionGuard",
    "PersonalDataGuard",
    "ScoreGuard",
    "Secret",
    "StreamGuard",
    "inspect",
    "refusal",
    "stored",
    "summary",
]
