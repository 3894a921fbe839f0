"""Office files encrypted with a password (ECMA-376 agile and standard encryption), opened in memory."""

from __future__ import annotations

import dataclasses
import io

from bucle.core.errors import Quarantined
from bucle.data.parse.source import Raw

__all__ = ["unlock"]

MAX_SPIN_COUNT = 10_000_000
"""Hash rounds an encrypted file may ask for, as Office itself limits them."""


def unlock(raw: Raw) -> Raw:
    """`raw` with the bytes inside. Raises Quarantined: `encrypted` where the password does not open it."""
    import msoffcrypto
    from msoffcrypto.exceptions import DecryptionError, InvalidKeyError

    try:
        office = msoffcrypto.OfficeFile(io.BytesIO(raw.data))
        if getattr(office, "info", {}).get("spinValue", 0) > MAX_SPIN_COUNT:
            raise Quarantined("encrypted", "The Office file asks for more work to open it than any real one.")
        office.load_key(password=raw.password, verify_password=True)
        opened = io.BytesIO()
        office.decrypt(opened)
    except InvalidKeyError as error:
        raise Quarantined("encrypted", "The Office file is encrypted. The password given does not open it.") from error
    except DecryptionError as error:
        raise Quarantined("encrypted", "The Office file is encrypted in a way that cannot be opened here.") from error
    return dataclasses.replace(raw, data=opened.getvalue())
