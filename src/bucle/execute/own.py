"""A project's own Python: a name of a file beside bucle.yaml, loaded by path, and only where the user trusts it.

Its code runs in this process with the user's rights, so a project that came from elsewhere must not bring it along
unasked: `trusted` is what the user said on the command line or in their environment (`--trust`, BUCLE_TRUST=1), never
what the project's files say. Only a file that truly lies inside the folder is read; the module search path is neither
used nor changed.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bucle.core.errors import ConfigError
from bucle.core.ids import sha256_hex

__all__ = ["hide_values", "own_file", "own_object", "secret_values", "untrusted"]

_NAME = re.compile(r"[A-Za-z_]\w*(?:[./][A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
MAX_BYTES = 2_000_000
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL", re.IGNORECASE)
_NAMED = re.compile(r"api_key_env[\"']?\s*:\s*[\"']?([A-Za-z_][A-Za-z0-9_]*)|\benv:([A-Za-z_][A-Za-z0-9_]*)")
_LEAST = 6
"""Characters of an environment variable's value that is hidden: shorter ones stand in any text."""


def own_file(name: str, folder: Path, what: str = "") -> Path:
    """The file that holds `module:attr`, inside `folder`. `what` says whose name it is, for messages. Raises
    ConfigError."""
    said = f"{what} {name}".strip()[:120]
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{said} does not name anything in a file", "write it as `my_file:name`")
    root = folder.resolve()
    module = name.partition(":")[0].replace(".", "/")
    path = (root / (module + ".py")).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise ConfigError(f"{said} needs the file {module}.py in the project's folder",
                          f"write {module}.py beside bucle.yaml, or correct the name")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path.name} has over {MAX_BYTES:,} bytes", "keep what the project calls in a small file")
    return path


def own_object(name: str, folder: Path, trusted: bool, *, what: str = "", source: bytes | None = None) -> Any:
    """The object `module:attr` (or `module:attr.attr`) of a Python file in the project's `folder`. A file is executed
    once a process, and again when it has changed; `source` takes the place of what it holds today. Raises ConfigError:
    no such file or name, not trusted, or the file does not run."""
    path = own_file(name, folder, what) if source is None else _place(name, folder)
    if not trusted:
        raise untrusted(name, path, what)
    found: Any = _module(str(path), path.read_bytes() if source is None else source)
    for part in name.partition(":")[2].split("."):
        found = getattr(found, part, _MISSING)
        if found is _MISSING:
            raise ConfigError(f"{path.name} has no function or object {name.partition(':')[2]}",
                              f"define it in {path.name}")
    return found


def untrusted(name: str, path: Path, what: str = "") -> ConfigError:
    """The error of code that nobody has said may run."""
    return ConfigError(
        f"{what} {name} is code of this project, and nobody has said that it may run".strip(),
        f"read {path.name}; if it may run: bucle run --trust (any other verb likewise; or BUCLE_TRUST=1)")


def secret_values(folder: Path | None = None) -> list[str]:
    """The values of the environment's variables that look like secrets by their name (KEY, TOKEN, SECRET, PASSWORD,
    CREDENTIAL in it), and of those that `folder`'s bucle.yaml names (`api_key_env`, `env:NAME`), the longest first."""
    names = {name for name in os.environ if _SECRET_NAME.search(name)}
    if folder is not None:
        try:
            with (folder / "bucle.yaml").open(encoding="utf-8", errors="replace") as file:
                names |= {a or b for a, b in _NAMED.findall(file.read(MAX_BYTES))}
        except OSError:
            pass
    values = {os.environ.get(name, "").strip() for name in names}
    return sorted((value for value in values if len(value) >= _LEAST), key=len, reverse=True)


def hide_values(text: str, values: Iterable[str]) -> str:
    """`text` with `***` for each of `values`, as it is or as JSON writes it."""
    for value in values:
        text = text.replace(value, "***")
        if (escaped := json.dumps(value, ensure_ascii=False)[1:-1]) != value:
            text = text.replace(escaped, "***")
    return text


_MISSING = object()


def _place(name: str, folder: Path) -> Path:
    return folder.resolve() / (name.partition(":")[0].replace(".", "/") + ".py")


@lru_cache(maxsize=64)
def _module(path: str, source: bytes) -> ModuleType:
    module = ModuleType(f"_bucle_own_{Path(path).stem}_{sha256_hex(path.encode() + source)[:12]}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pydantic look their module up by name
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - trusted, or it would not be here
    except Exception as error:  # any mistake in the user's own file
        sys.modules.pop(module.__name__, None)
        told = hide_values(f"{type(error).__name__}: {error}", secret_values(Path(path).parent))
        raise ConfigError(f"{Path(path).name} does not run: {told}"[:500], "mend the file") from None
    return module
