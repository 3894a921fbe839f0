"""Prompting: zero-shot and few-shot classification with any model."""

from bucle.customise.prompt.classify import FewShot, ZeroShot

__all__ = ["FewShot", "ZeroShot"]
