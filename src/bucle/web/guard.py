"""What every studio response carries, and which host names are answered."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["HEADERS", "host_allowed"]

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
    name = header.strip().lower()
    if name.startswith("["):
        name = name.partition("]")[0] + "]"
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in {"localhost", "[::1]", "127.0.0.1"}:
        return True
    return name in {host.strip().lower() for host in hosts}
