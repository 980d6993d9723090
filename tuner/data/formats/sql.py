"""Reader of databases: rows of `data.query`, through SQLAlchemy. `data: {url: sqlite:///tickets.db, query: select mail, ticket from t}`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from tuner.data.formats.source import Found
from tuner.data.formats.tables import repeated
from tuner.errors import ENVIRONMENT, Problem, TuneError
from tuner.files import has_password, is_secret
from tuner.registry import load
from tuner.schema.data import Data

_BATCH_ROWS = 1000
NAME = "data.query"


def read_sql(data: Data) -> Iterator[Found]:
    """Rows of the query. Raises TuneError (code 2 the recipe, 4 what is not installed or does not answer), never with a password."""
    if not data.query:
        raise TuneError("a database needs `data.query`", NAME, "write the query whose result are the rows: `select mail, ticket from t`")
    try:
        sqlalchemy = load("sqlalchemy")
    except ImportError as error:
        what = "databases are read with SQLAlchemy, which is not installed"
        raise TuneError(what, "data.url", 'pip install "tuner[sql]"', code=ENVIRONMENT) from error
    url = _url(data, sqlalchemy)
    engine = _engine(url, sqlalchemy)
    number = 0
    try:
        with _connection(engine, sqlalchemy) as connection:
            result = connection.exec_driver_sql(data.query)  # as it is written: `:name` and `%` mean nothing here
            names = list(result.keys())
            if twice := repeated(names):
                raise TuneError(f"two columns are called {twice!r}", NAME, f"give one of them another name: `{twice} as other`")
            while rows := result.fetchmany(_BATCH_ROWS):
                for row in rows:
                    number += 1
                    yield number, dict(zip(names, row, strict=True))
    except (sqlalchemy.exc.SQLAlchemyError, OSError, ValueError, OverflowError) as error:
        reason = _reason(error, url)
        if not number:
            raise TuneError(f"the query failed: {reason}", NAME, "check the query") from None
        yield number + 1, Problem(what=f"the database stopped: {reason}", where=f"{NAME}, row {number + 1}", fix="run it again")
    finally:
        engine.dispose()


def _url(data: Data, sqlalchemy: Any) -> Any:
    """The URL as SQLAlchemy has it. One with a password is taken from the environment only: a recipe is kept, shown and published."""
    if data.url and has_password(data.url):
        fix = "put the URL into an environment variable, and the variable's name into `data.url_env`"
        raise TuneError("`data.url` holds a password", "data.url", fix)
    text = data.url or (os.environ.get(data.url_env, "") if data.url_env else "")
    if not text:
        what = f"the environment variable {data.url_env} is not set" if data.url_env else "no database is named"
        fix = f"export {data.url_env}=postgresql://…" if data.url_env else "set `data.url`, or `data.url_env` where it has a password"
        raise TuneError(what, "data.url_env" if data.url_env else "data.url", fix)
    try:
        url = sqlalchemy.engine.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        where = "data.url" if data.url else f"{data.url_env} (data.url_env)"
        raise TuneError("not a database URL", where, "write `dialect://user@host/database`, or `sqlite:///path.db`") from None
    missing = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:") and not url.database.startswith("file:")
    if missing and not os.path.isfile(url.database):  # SQLite would make an empty one
        raise TuneError(f"no such file: {url.database}", "data.url", f"check the path; relative ones are looked up in {os.getcwd()}")
    return url


def _engine(url: Any, sqlalchemy: Any) -> Any:
    try:
        return sqlalchemy.create_engine(url)
    except (ImportError, sqlalchemy.exc.ArgumentError) as error:
        name = (error.name if isinstance(error, ImportError) else None) or f"the package of {url.drivername}"
        what = f"the driver for {url.drivername}:// is not installed"
        raise TuneError(what, "data.url", f"pip install {name}", code=ENVIRONMENT) from None


def _connection(engine: Any, sqlalchemy: Any) -> Any:
    try:
        return engine.connect().execution_options(stream_results=True, no_parameters=True)
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        what = f"the database does not answer: {_reason(error, engine.url)}"
        raise TuneError(what, "data.url", "check the address, the network and the credentials", code=ENVIRONMENT) from None


def _reason(error: Exception, url: Any) -> str:
    """The driver's own words, without what is secret in the URL."""
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    values = [v for key, v in url.query.items() if is_secret(key)]
    for secret in [url.password, *values]:
        if secret:
            text = text.replace(str(secret), "***").replace(quote(str(secret), safe=""), "***")
    return text.splitlines()[0]
