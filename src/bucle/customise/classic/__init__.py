"""Honest baselines and heads on frozen features, for every kind of task: nothing here writes a word of its own."""

from bucle.customise.classic.baselines import Majority, Nearest
from bucle.customise.classic.linear import FrozenEncoder, Hybrid, TfidfLogistic
from bucle.customise.classic.pattern import Pattern
from bucle.customise.classic.summary import Extractive, Lead
from bucle.customise.classic.text import Copy, Empty, Frequent, NearestText

__all__ = [
    "Copy",
    "Empty",
    "Extractive",
    "Frequent",
    "FrozenEncoder",
    "Hybrid",
    "Lead",
    "Majority",
    "Nearest",
    "NearestText",
    "Pattern",
    "TfidfLogistic",
]
