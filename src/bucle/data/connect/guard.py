"""Which addresses a page may be fetched from, and a connection to the very address that was checked.

A host's name is resolved once, here; every address it has must be public, and the connection goes to one of them, so a
name that points elsewhere a moment later (DNS rebinding) changes nothing. TLS and Host still use the name.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

__all__ = ["Forbidden", "GuardedTransport", "forbidden"]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_METADATA = tuple(
    ipaddress.ip_network(net)
    for net in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32")
)
"""Link-local, where clouds keep a machine's credentials, and the addresses that AWS, Alibaba and Azure add to it."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(httpx.TransportError):
    """The host's address is one that must not be asked."""


def forbidden(address: str, allow_private: bool) -> bool:
    """Whether `address` must not be connected to: metadata services never, anything not public unless allowed."""
    ip = _plain(ipaddress.ip_address(address.partition("%")[0]))
    if any(ip.version == net.version and ip in net for net in _METADATA):
        return True
    if ip.is_multicast or ip.is_unspecified:
        return True
    return not ip.is_global and not allow_private


def _plain(ip: _Address) -> _Address:
    """The IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64, IPv4-compatible), or `ip` itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped:
        return ip.ipv4_mapped
    if ip.sixtofour:
        return ip.sixtofour
    if ip.teredo:
        return ip.teredo[1]
    if ip in _NAT64 or (int(ip) >> 32 == 0 and int(ip) > 1):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


class _Backend(httpcore.NetworkBackend):
    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._real = httpcore.SyncBackend()
        self.deadline = float("inf")

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            told = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} has no address") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in told))
        for address in addresses:
            if forbidden(address, self._allow_private):
                raise Forbidden(f"{host} is at {address}, which is not a public address")
        failed: Exception = httpcore.ConnectError(f"the name {host} has no address")
        for address in addresses[:4]:
            try:
                stream = self._real.connect_tcp(address, port, timeout, local_address, socket_options)
                return _Stream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        raise Forbidden("a socket of this machine is not a page")


class _Stream(httpcore.NetworkStream):
    """A connection that ends at its backend's deadline, however slowly the other side drips."""

    def __init__(self, real: httpcore.NetworkStream, backend: _Backend) -> None:
        self._real, self._backend = real, backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._real.read(max_bytes, self._left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._real.write(buffer, self._left(timeout))

    def close(self) -> None:
        self._real.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._real.start_tls(ssl_context, server_hostname, self._left(timeout)), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._real.get_extra_info(info)

    def _left(self, timeout: float | None) -> float:
        left = self._backend.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("it took too long")
        return min(left, timeout) if timeout is not None else left


class GuardedTransport(httpx.HTTPTransport):
    """httpx's transport over connections that are checked. `until(seconds)` sets when the next request must end."""

    def __init__(self, allow_private: bool) -> None:
        self.allow_private = allow_private
        context = httpx.create_ssl_context()
        super().__init__(verify=context, trust_env=False)
        self._backend = _Backend(allow_private)
        self._pool = httpcore.ConnectionPool(ssl_context=context, network_backend=self._backend, max_connections=8)

    def until(self, seconds: float) -> None:
        self._backend.deadline = time.monotonic() + seconds

    def extend(self, seconds: float) -> None:
        """Add a pause of our own to the deadline."""
        self._backend.deadline += seconds

    @property
    def deadline(self) -> float:
        return self._backend.deadline
