"""Honest baselines and heads on frozen features: majority, nearest example, TF-IDF, frozen encoder."""

from bucle.customise.classic.baselines import Majority, Nearest
from bucle.customise.classic.linear import FrozenEncoder, Hybrid, TfidfLogistic

__all__ = ["FrozenEncoder", "Hybrid", "Majority", "Nearest", "TfidfLogistic"]
