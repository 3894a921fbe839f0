"""The project's own Python as candidates use it: a chain's functions, another library's objects. See execute/own.py."""

from bucle.execute.own import hide_values, own_file, own_object, secret_values, untrusted

__all__ = ["hide_values", "own_file", "own_object", "secret_values", "untrusted"]
