"""Choosing: the ladder of candidates. (The comparison that decides is `bucle.evaluate.compare`.)"""

from bucle.choose.ladder import Rung, ladder

__all__ = ["Rung", "ladder"]
