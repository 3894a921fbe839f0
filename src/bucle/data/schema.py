"""The JSON Schema of an extract task: read once, its patterns in linear time, nothing fetched from anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput

__all__ = ["Schema", "load_schema"]

MAX_BYTES = 2 * 2**20


class Schema:
    """A schema that values are held against. `body` is the schema itself. Raises BadInput where it is none, or refers
    to another file or a URL."""

    def __init__(self, body: Mapping[str, Any], name: str = "the schema") -> None:
        import jsonschema_rs

        self.body = dict(body)
        try:
            self._validator = jsonschema_rs.validator_for(
                self.body, offline=True, pattern_options=jsonschema_rs.RegexOptions(), mask="what is there"
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            said = str(getattr(error, "message", "") or error).splitlines()[0][:200]
            raise BadInput(f"{name} is no JSON Schema that can be used: {said}", "Correct it; $ref may only point into "
                           "the schema itself.") from error

    def fault(self, value: Any) -> str:
        """Where and how `value` breaks the schema first, without what stands in it; empty where it keeps it."""
        import jsonschema_rs

        try:
            for error in self._validator.iter_errors(value):
                place = "/".join(map(str, error.instance_path))
                return f"{place}: {error.message}"[:200] if place else str(error.message)[:200]
        except (jsonschema_rs.ValidationError, ValueError, RecursionError) as error:
            return f"it cannot be checked: {str(error).splitlines()[0][:120]}"
        return ""


def load_schema(path: Path) -> Schema:
    """The schema in a JSON file. Raises BadInput."""
    if not path.is_file():
        raise BadInput(f"{path} does not exist.", "Correct `json_schema` in bucle.yaml.")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has over {MAX_BYTES:,} bytes.", "Give a JSON Schema.")
    try:
        body = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {str(error)[:160]}.", "Give a JSON Schema.") from error
    if not isinstance(body, dict):
        raise BadInput(f"{path}: the schema is not a JSON object.", 'Begin with {"type": "object", …}.')
    return Schema(body, str(path))
