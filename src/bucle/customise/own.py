"""The project's own Python as candidates use it: a chain's functions, another library's objects. See execute/own.py."""

from bucle.execute.own import own_file, own_object

__all__ = ["own_file", "own_object"]
