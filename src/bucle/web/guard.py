"""What every studio response carries, and which host names are answered."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["HEADERS", "host_allowed"]

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
"""A name, an IPv4 address or a bracketed IPv6 address, then perhaps a port."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
"""No inline script or style, nothing from elsewhere, in no frame. Pages hold a team's data: never stored."""


def host_allowed(header: str, hosts: Sequence[str] = ()) -> bool:
    """Whether a Host header names this machine's loopback or one of `hosts`, whatever the port.

    A page elsewhere that points its own name at 127.0.0.1 (DNS rebinding) sends that name, and is refused.
    """
    match = HOST.fullmatch(header.strip().lower())
    if match is None:
        return False
    name = match[1]
    if name in {"localhost", "[::1]", "127.0.0.1"}:
        return True
    return name in {host.strip().lower() for host in hosts}
