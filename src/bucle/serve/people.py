"""Who asks, as it is stored and as a provider is told: the same for one person, and nothing to write to.

A keyed hash (HMAC-SHA256) under 32 random bytes that belong to the project, in letters so that no digits of it look
like a phone. Without the key nobody can try addresses; delete the key, and nobody can tell any more who was who.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from pathlib import Path

from bucle.core.errors import Infrastructure

__all__ = ["People"]

KEY = "people.key"
BYTES = 32
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")


class People:
    """The people of one project. Its key lies in `folder` (mode 0600) and is drawn at first need; without a folder it
    lasts as long as the process. `masks` False: what is stored is what was said (`serve.redact: false`).

    Raises Infrastructure where the key cannot be read or written.
    """

    def __init__(self, folder: Path | None = None, *, masks: bool = True) -> None:
        self._folder, self._masks = folder, masks

    def stored(self, who: str) -> str:
        """`who` with every e-mail, phone, DNI and the like in it as `email:kdmfbnapelohcgij`, the same each time; what
        was so made stays."""
        if not who or not self._masks:
            return who
        from bucle.data.personal import find  # its patterns take 20 ms to compile

        return _named(who, self._key) if find(who) else who

    def known_as(self, who: str) -> tuple[str, ...]:
        """What traces of `who` may say: what is stored now, and what was said (as older traces have it)."""
        return tuple(dict.fromkeys((self.stored(who), who)))

    def told(self, who: str) -> str:
        """What a provider is told: 32 letters, always the same for one person; nothing for nobody."""
        return _digest(self._key, f"told:{self.stored(who)}")[:BYTES] if who else ""

    @functools.cached_property
    def _key(self) -> bytes:
        if self._folder is None:
            return secrets.token_bytes(BYTES)
        path = self._folder / KEY
        try:
            if not path.exists():
                _draw(path)
            key = path.read_bytes()
        except OSError as error:
            raise Infrastructure(f"{path} cannot be used: {error.strerror}.", "Check who owns it.") from error
        if len(key) != BYTES:
            raise Infrastructure(f"{path} is damaged.", "Delete it: people are then told apart anew.")
        return key


def _draw(path: Path) -> None:
    """A key of several processes that start at once: whole, and the first one's."""
    handle, made = tempfile.mkstemp(dir=path.parent, prefix=".people-")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)
    finally:
        os.unlink(made)


@functools.lru_cache(maxsize=1024)
def _named(who: str, key: bytes) -> str:
    from bucle.data.personal import find

    pieces, at = [], 0
    for one in find(who):
        plain = one.text.lower() if one.kind in ("email", "secret") else re.sub(r"\W", "", one.text).lower()
        plain = plain[-9:] if one.kind == "phone" else plain  # with the country's prefix or without
        pieces += [who[at : one.start], f"{one.kind}:{_digest(key, f'{one.kind}:{plain}')[:16]}"]
        at = one.end
    return "".join(pieces) + who[at:]


def _digest(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest().translate(_LETTERS)
