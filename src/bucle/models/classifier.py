"""A text classifier of transformers, opened from a folder or the local Hub cache: safetensors, no code of its own."""

from __future__ import annotations

from typing import Any

from bucle.core.errors import ModelUnavailable

__all__ = ["open_classifier"]


def open_classifier(where: str, told: str, hint: str) -> tuple[Any, Any]:
    """Tokenizer and model (in evaluation mode) at `where`. Raises ModelUnavailable, which calls it `told` and ends with
    `hint`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from bucle.models.cpu import prepare_torch, quiet_libraries

    prepare_torch(None)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(where, **options)
            model = AutoModelForSequenceClassification.from_pretrained(where, use_safetensors=True, **options)
    except Exception as error:  # transformers raises many kinds; all mean the same here
        said = str(error).splitlines()[0][:200]
        raise ModelUnavailable(f"{told} `{where}` cannot be loaded: {said}", hint) from error
    return tokenizer, model.eval()
