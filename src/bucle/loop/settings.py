"""What bucle.yaml says and only a later room than its reader can judge: checked when a project is opened."""

from __future__ import annotations

from pathlib import Path

from bucle.core.config import AnthropicModel, OpenAIModel, Project, ProviderModel
from bucle.core.errors import ConfigError
from bucle.core.yamlfile import at_line

__all__ = ["check_settings"]


def check_settings(config: Project, file: Path) -> None:
    """Raises ConfigError, with the line of `file`, for half a price that no list completes and for a language that
    nobody can tell."""
    with at_line(file):
        for name, model in config.models.items():
            if isinstance(model, OpenAIModel | AnthropicModel | ProviderModel):
                _priced(name, model, config)
        _told_apart(config.serve.guards.languages, "serve", "guards", "languages")
        _told_apart(config.data.languages, "data", "languages")


def _priced(name: str, model: OpenAIModel | AnthropicModel | ProviderModel, config: Project) -> None:
    entries = [model, config.catalogue.get(model.model), config.catalogue.get(name)]
    sides = {side for side in ("usd_per_million_in", "usd_per_million_out")
             if any(getattr(entry, side, None) is not None for entry in entries)}
    if len(sides) != 1:
        return
    from bucle.models.catalogue import paid

    paid(name, model, config.catalogue)


def _told_apart(codes: tuple[str, ...], *keys: str) -> None:
    from bucle.data.language import LANGUAGES, known_languages

    wrong = next((code for code in codes if code not in LANGUAGES and code not in known_languages()), None)
    if wrong is not None:
        raise ConfigError(f"{'.'.join(keys)}: `{wrong:.40}` is no language that can be told.",
                          "Write its code of two letters: es, en, fr, ….", keys)
