"""What decides an encoder's vectors, as one hash; and the folder where what was made from models is kept."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

from bucle.core.ids import canonical_json, file_sha256, sha256_hex
from bucle.models.folder import checked_folder

__all__ = ["cache_root", "identity_of"]

SETTLED_S = 2.0
"""A file younger than this may change again within its clock's tick: its hash is not remembered."""
_DECIDES = frozenset({
    "config.json", "modules.json", "config_sentence_transformers.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt",
})
_seen: dict[str, str] = {}


def cache_root() -> Path:
    """`$BUCLE_CACHE`, or `~/.cache/bucle` (`$XDG_CACHE_HOME/bucle`). It can be deleted at any time."""
    if own := os.environ.get("BUCLE_CACHE", "").strip():
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "").strip() or Path.home() / ".cache") / "bucle"


def identity_of(folder: Path) -> str:
    """SHA-256 over the weights of the model in `folder` and every file that decides its vectors: pooling and other
    modules, longest text, prompts, tokenizer.

    Files are read again only when their size or time changed (64 hexadecimal digits, milliseconds when nothing did).
    Raises ModelUnavailable for a folder that is no model.
    """
    root = checked_folder(folder).resolve()
    files = sorted(path for path in root.rglob("*") if path.is_file() and _decides(path))
    stats = [(path.relative_to(root).as_posix(), path.stat()) for path in files]
    state = sha256_hex(canonical_json(
        [str(root), *([name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for name, s in stats)]))
    kept = cache_root() / "identities" / f"{state}.json"
    if found := _seen.get(state) or _read(kept):
        _seen[state] = found
        return found
    identity = sha256_hex(canonical_json([[path.relative_to(root).as_posix(), file_sha256(path)] for path in files]))
    if all(abs(time.time() - s.st_mtime) > SETTLED_S for _, s in stats):
        _seen[state] = identity
        _write(kept, identity)
    return identity


def _decides(path: Path) -> bool:
    name = path.name
    return (name in _DECIDES or path.suffix in {".safetensors", ".model"}
            or (name.startswith("sentence_") and name.endswith("_config.json")))


def _read(path: Path) -> str:
    try:
        value = json.loads(path.read_text())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return value if isinstance(value, str) and len(value) == 64 else ""


def _write(path: Path, identity: str) -> None:
    """Best effort: without it the files are hashed again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"identity": identity}, file)
        Path(file.name).replace(path)
    except OSError:
        return
