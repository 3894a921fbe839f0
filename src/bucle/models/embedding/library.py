"""OpenVINO, imported without its telemetry."""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["openvino_quiet"]


def openvino_quiet() -> Any:
    """The module `openvino`. By default it reports each import and conversion to its maker over the network; where the
    package that does so is missing, it does without, so that package is hidden from it. Raises ImportError."""
    if "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python marks what cannot be imported
    return importlib.import_module("openvino")
