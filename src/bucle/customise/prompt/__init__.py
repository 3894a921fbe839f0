"""Prompting: zero-shot, few-shot and chain of thought, with any model that writes."""

from bucle.customise.prompt.shots import FewShot, ZeroShot
from bucle.customise.prompt.thought import ChainOfThought

__all__ = ["ChainOfThought", "FewShot", "ZeroShot"]
