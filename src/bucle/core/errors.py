"""One base error. Its message states the fact and the next command; a user's mistake never shows a traceback."""

from __future__ import annotations

__all__ = [
    "BadInput",
    "BucleError",
    "ConfigError",
    "ContextOverflow",
    "GateFailed",
    "Infrastructure",
    "ModelUnavailable",
    "NotFound",
    "Quarantined",
    "SchemaBroken",
    "TemplateError",
    "UpstreamTimeout",
    "WrongEncoder",
]


class BucleError(Exception):
    """Any failure that Bucle explains.

    `message` is the fact, `hint` the next thing to do (a command where there is one), `exit_code` the
    process's status: 1 a gate failed, 2 usage or configuration, 3 infrastructure.
    """

    exit_code = 3

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class ConfigError(BucleError):
    """bucle.yaml, a flag or an environment variable says something that cannot be meant. `at` are the keys in
    bucle.yaml that say it (`"serve", "routes", "faq"`), for yamlfile.at_line."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "", at: tuple[str | int, ...] = ()) -> None:
        super().__init__(message, hint)
        self.at = at


class BadInput(BucleError):
    """A user's data or request cannot be used as it is."""

    exit_code = 2


class TemplateError(ConfigError):
    """A prompt template cannot be meant: an unknown variable, a value of the wrong type, something unsafe."""


class ContextOverflow(BadInput):
    """What may never be left out of a prompt takes more tokens than the model's context holds."""


class SchemaBroken(BadInput):
    """What a model wrote does not fit its JSON schema, after one attempt to repair it."""


class WrongEncoder(BadInput):
    """An index was built by another embedding model than the one that asks it."""


class NotFound(BucleError):
    """A node, alias, trace or file that was named does not exist."""

    exit_code = 2


class GateFailed(BucleError):
    """A measured quality gate was not passed."""

    exit_code = 1


class ModelUnavailable(BucleError):
    """A model cannot be loaded or reached."""

    exit_code = 3


class UpstreamTimeout(ModelUnavailable):
    """A model or service that a step calls did not answer in time, or broke off half-way."""


class Infrastructure(BucleError):
    """The machine said no: disk full, port in use, permission denied."""

    exit_code = 3


class Quarantined(BucleError):
    """One file that cannot be read; the run goes on and counts it. `reason` is a short code such as `encrypted`."""

    exit_code = 2

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
