"""A conversion in a process of its own: one that OpenVINO, or the machine's memory, ends takes no server with it, and
what torch had taken is given back.

`python -m bucle.models.engines.openvino.apart` reads one line of JSON and ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError, ModelUnavailable
from bucle.models.cpu import quiet_libraries
from bucle.models.embedding.library import openvino_quiet
from bucle.models.engines.openvino.convert import converted, kept_at
from bucle.models.engines.openvino.trace import NotConverted

__all__ = ["converted_apart", "main"]

_COMMAND = (sys.executable, "-P", "-m", "bucle.models.engines.openvino.apart")


def converted_apart(folder: Path, precision: str, *, adapter: Path | None = None, root: Path | None = None) -> Path:
    """As `converted`. Raises NotConverted, too, where the process that converts is ended: by a fault of a library, or
    for the memory that it takes."""
    final = kept_at(folder, precision, adapter=adapter, root=root)
    if (final / "meta.json").is_file():
        return final
    asked = {"folder": str(folder), "precision": precision, "adapter": str(adapter or ""), "root": str(root or "")}
    reading, writing = os.pipe()  # its standard input: open as long as this process lives
    try:
        os.write(writing, json.dumps(asked).encode() + b"\n")
        with subprocess.Popen(_COMMAND, stdin=reading, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
            _import_ahead()
            said_all, _ = process.communicate()
    finally:
        os.close(reading)
        os.close(writing)
    lines, code = said_all.splitlines(), process.returncode
    said: dict[str, Any] = {}
    with contextlib.suppress(ValueError, IndexError):
        said = json.loads(lines[-1])
    if said.get("kind") == "done":
        return Path(said["path"])
    if said:
        raise (NotConverted if said["kind"] == "NotConverted" else ModelUnavailable)(said["message"], said["hint"])
    with contextlib.suppress(ValueError):
        raise NotConverted(f"OpenVINO ended the process that converted it ({signal.Signals(-code).name}).",
                           "serve it with `engine: transformers`, or give it more memory")
    raise NotConverted(f"OpenVINO ended the process that converted it (exit status {code}).",
                       "serve it with `engine: transformers`")


def _import_ahead() -> None:
    """What serving takes seconds to import, while the other process is at work."""
    with contextlib.suppress(ImportError), quiet_libraries():
        openvino_quiet()
        import openvino_genai
        from transformers import AutoTokenizer

        del openvino_genai, AutoTokenizer


def main() -> int:
    """Convert what standard input names; the last line of standard output says where it is, or why it is not."""
    asked = json.loads(os.read(0, 65_536))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, (adapter, root) = Path(asked["folder"]), (
        Path(asked[name]) if asked[name] else None for name in ("adapter", "root"))
    try:
        made = converted(folder, asked["precision"], adapter=adapter, root=root)
        said = {"kind": "done", "path": str(made)}
    except BucleError as error:
        said = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
    except MemoryError:
        said = {"kind": "NotConverted", "message": "converting it takes more memory than is allowed.",
                "hint": "serve it with `engine: transformers`, or give it more memory"}
    except Exception as error:  # whatever the libraries stumble over in what somebody else wrote
        first = (str(error).strip().splitlines() or [""])[0][:200]
        said = {"kind": "ModelUnavailable", "message": f"{adapter or folder} cannot be loaded: {type(error).__name__}: "
                f"{first}", "hint": "check that the adapter was trained on this base model" if adapter else ""}
    print("\n" + json.dumps(said), flush=True)
    return 0


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(0, 4096):
            pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
