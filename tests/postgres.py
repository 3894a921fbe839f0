"""A PostgreSQL server for tests: `python tests/postgres.py start FOLDER` prints the URL of a fresh one on loopback.

Started by .ci/run, which exports the URL as BUCLE_TEST_POSTGRES; tests that need it skip, and say so, without.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "BUCLE_TEST_POSTGRES"


def url() -> str:
    """The server's URL; skips the test that asks where there is none."""
    found = os.environ.get(VARIABLE, "")
    if not found:
        pytest.skip(f"no PostgreSQL: set {VARIABLE} (as .ci/run does) to a postgresql+psycopg:// URL")
    return found


def start(folder: Path) -> str:
    """A fresh cluster in `folder`, on a free port of 127.0.0.1, with a user and password. As root it runs as the
    user postgres, as the server demands."""
    folder.mkdir(parents=True, exist_ok=True)
    password = folder / "password"
    password.write_text("clave-de-prueba", encoding="utf-8")
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
        shutil.chown(password, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cluster = folder / "cluster"
    _run("initdb", "-D", cluster, "-U", "prueba", f"--pwfile={password}", "-A", "scram-sha-256", "-E", "UTF8",
         "--no-sync", "--locale=C")
    _run("pg_ctl", "-D", cluster, "-w", "-l", folder / "log",
         "-o", f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='{folder}' -c fsync=off", "start")
    return f"postgresql+psycopg://prueba:clave-de-prueba@127.0.0.1:{port}/postgres"


def stop(folder: Path) -> None:
    """End the server in `folder` and remove it."""
    _run("pg_ctl", "-D", folder / "cluster", "-m", "immediate", "stop")
    shutil.rmtree(folder, ignore_errors=True)


def _run(program: str, *args: object) -> None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}")) or [Path(program)]
    command = [str(found[-1]), *map(str, args)]
    if os.getuid() == 0:
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd="/")


if __name__ == "__main__":
    verb, place = sys.argv[1:3]
    if verb == "start":
        print(start(Path(place)))
    else:
        stop(Path(place))
