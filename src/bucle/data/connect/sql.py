"""The rows of a query, through SQLAlchemy: read only, streamed, with limits, and no password in any message."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, BucleError, ConfigError
from bucle.core.sources import SqlSource
from bucle.data.connect.http import Unreachable
from bucle.data.connect.safe import environment, public_url, scrub

if TYPE_CHECKING:
    from sqlalchemy import URL

__all__ = ["origin_of", "read"]

BATCH = 1000
"""Rows that are in memory at once."""
CONNECT_S = 10
_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(select|with|values|table|from|show|describe)\b", re.I | re.S)
_DRIVERS = {"psycopg": "bucle[postgres]", "psycopg2": "bucle[postgres]", "snowflake": "bucle[snowflake]",
            "databricks": "bucle[databricks]"}  # fmt: skip


def origin_of(source: SqlSource) -> str:
    """The URL without its password."""
    return public_url(_url(source).render_as_string(hide_password=False))


def read(source: SqlSource, project: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of the query as mappings, in its order. A relative SQLite path is relative to the project.

    The transaction is read only where the database has such, and never committed. Raises ConfigError for a URL,
    driver or query that cannot be meant, BadInput for a query the database refuses, Unreachable where it is away.
    """
    if not _READS.match(source.query):
        raise ConfigError(
            "`query` does not begin with SELECT or WITH.", "A source only reads: write the query that gives its rows."
        )
    from sqlalchemy import create_engine, exc, text
    from sqlalchemy.pool import NullPool

    url = _url(source)
    secrets = [str(url.password or ""), *_query_secrets(url)]
    try:
        options = _options(url, source, project)
        engine = create_engine(url, poolclass=NullPool, hide_parameters=True, **options)
    except (ImportError, exc.NoSuchModuleError) as error:
        name = url.drivername.partition("+")[2] or url.get_backend_name()
        package = _DRIVERS.get(name) or _DRIVERS.get(url.get_backend_name(), "")
        if not package and name == "postgresql":
            package = _DRIVERS["psycopg"]
        raise ConfigError(
            f"Reading {url.drivername}:// needs a driver that is not installed ({scrub(str(error), secrets)}).",
            f"pip install '{package}'" if package else "Install SQLAlchemy's driver for this database.",
        ) from None
    # A `:name` in the query is the database's own (a cast, a time): a source has no parameters.
    query = text(re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", source.query))
    connected = False
    try:
        with engine.connect() as connection:
            connected = True
            _read_only(connection)
            result = connection.execution_options(stream_results=True, yield_per=BATCH).execute(query)
            if not result.returns_rows:
                raise BadInput("The query gives no rows.", "A source's query must be a SELECT.")
            names = list(result.keys())
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise BadInput(f"The query gives two columns named {twice!r}.", "Name them apart with AS.")
            with closing(result):
                for row in result:
                    yield dict(zip(names, row, strict=True))
            connection.rollback()
    except BucleError:
        raise
    except exc.DBAPIError as error:
        told = scrub(str(error.orig or error).partition("\n")[0], secrets)
        whole = str(error.orig or error).lower()
        if any(word in whole for word in ("timeout", "interrupted", "canceling statement")):
            raise BadInput(
                f"The query took over {source.timeout_s:g} s.", "Narrow it, or raise `timeout_s` of the source."
            ) from None
        if not connected or error.connection_invalidated or "unable to open" in whole:
            raise Unreachable(told) from None
        raise BadInput(f"The database refuses the query: {told}.", "Correct `query` in bucle.yaml.") from None
    except (exc.SQLAlchemyError, OSError) as error:
        raise Unreachable(scrub(str(error).partition("\n")[0], secrets)) from None
    finally:
        engine.dispose()


def _url(source: SqlSource) -> URL:
    from sqlalchemy import exc, make_url

    given = source.url or environment(source.url_env, "The URL of a database")
    where = source.url_env or "`url`"
    try:
        url = make_url(given)
    except (exc.ArgumentError, ValueError):
        told = f"{where} is no SQLAlchemy URL."
        raise ConfigError(told, "Write it as postgresql+psycopg://user@host/name.") from None
    if source.url and (url.password or _query_secrets(url)):
        raise ConfigError(
            "A password stands in bucle.yaml.",
            "Put the URL into an environment variable (or .env) and name that: `url_env: DATABASE_URL`.",
        )
    if url.drivername in ("postgresql", "postgres"):  # the driver that `bucle[postgres]` brings
        url = url.set(drivername="postgresql+psycopg")
    return url


def _query_secrets(url: URL) -> list[str]:
    secret = re.compile(r"pass|pwd|token|secret|key", re.I)
    return [str(value) for name, value in url.query.items() if secret.search(name) and "file" not in name]


def _options(url: URL, source: SqlSource, project: Path) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"creator": _sqlite(url, source, project)}
    if url.get_backend_name() == "postgresql":
        limits = f"-c statement_timeout={int(source.timeout_s * 1000)} -c default_transaction_read_only=on"
        return {"connect_args": {"options": limits, "connect_timeout": CONNECT_S}}
    return {}


def _sqlite(url: URL, source: SqlSource, project: Path) -> Callable[[], sqlite3.Connection]:
    """Opens the file for reading only; a file that is not there is not made."""
    if not url.database or url.database == ":memory:":
        raise ConfigError("A SQLite source needs a file.", "Write `url: sqlite:///folder/file.db`.")
    path = (project / url.database).resolve()

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=CONNECT_S)
        connection.execute("PRAGMA query_only = ON")
        end = time.monotonic() + source.timeout_s
        connection.set_progress_handler(lambda: int(time.monotonic() > end), 10_000)
        return connection

    return connect


def _read_only(connection: Any) -> None:
    if connection.dialect.name in ("mysql", "mariadb", "oracle"):
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
