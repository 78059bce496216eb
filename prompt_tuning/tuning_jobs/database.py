"""The database of a job store: its tables, and its transactions."""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import dataclasses
import functools
import json
import math
import os
import pathlib
import sqlite3
import time
from typing import Any, TypeVar

import pydantic_core

from prompt_tuning.tuning_jobs import jobs
from prompt_tuning.tuning_jobs.jobs import File, Job, JobEvent

# The time, on `time.monotonic`, after which a thread must not change anything,
# because its request was answered with an error.
deadline = contextvars.ContextVar("deadline", default=math.inf)
# Seconds that a transaction waits for others, of a worker and of a request.
_PATIENCE, _REQUEST_PATIENCE = 30.0, 3.0
# Without a tenant, all rows are visible.
IS_VISIBLE = "coalesce(?, owner) is owner"
_TABLES = {File: "files", Job: "jobs", JobEvent: "events"}
_TYPES = {
  "number": "integer primary key autoincrement",
  "settings": "settings",
  "metadata": "json",
  "data": "json",
}


def _columns(kind: type) -> list[str]:
  """Returns the columns of a table, with their types if they have any."""
  names = [field.name for field in dataclasses.fields(kind)]
  return [f"{name} {_TYPES.get(name, '')}".strip() for name in names]


def _read(kind: Callable[[Any], Any], text: bytes) -> Any:
  """Returns a value that the database holds as JSON."""
  try:
    return kind(json.loads(text))
  except (TypeError, ValueError) as error:
    raise sqlite3.DatabaseError(f"a row is damaged: {error}") from error


_FILES, _JOBS, _EVENTS = (", ".join(_columns(kind)) for kind in _TABLES)
_SCHEMA = f"""
pragma journal_mode = wal;
create table if not exists files ({_FILES}, primary key (id));
create table if not exists jobs ({_JOBS}, primary key (id));
create table if not exists events ({_EVENTS});
create index if not exists events_of_jobs on events (job, number);
"""
# JSON has no NaN or infinity: they become null.
sqlite3.register_adapter(
  dict, lambda x: pydantic_core.to_json(x, inf_nan_mode="null").decode()
)
sqlite3.register_converter("json", functools.partial(_read, dict))
sqlite3.register_converter(
  "settings", functools.partial(_read, lambda x: jobs.Settings(**x))
)
Row = TypeVar("Row", File, Job, JobEvent)


class Database(sqlite3.Connection):
  """A connection whose rows are files, jobs and events.

  Attributes:
    owner: The tenant whose rows `one` finds; None finds all.
  """

  owner: str | None = None

  def select(self, kind: type[Row], where: str, *values: Any) -> list[Row]:
    """Returns the rows of a kind that meet a condition."""
    names = ", ".join(field.name for field in dataclasses.fields(kind))
    query = f"select {names} from {_TABLES[kind]} where {where}"
    return [kind(**row) for row in self.execute(query, values)]

  def one(self, kind: type[Row], id: str) -> Row:
    """Returns the row with an id.

    Raises:
      UnknownError: if the id is unknown.
    """
    where = f"id = ? and {IS_VISIBLE}"
    if not (found := self.select(kind, where, id, self.owner)):
      raise jobs.UnknownError(kind.__name__.lower(), id)
    return found[0]

  def add_new_columns(self) -> None:
    """Adds the columns that the tables of an older store lack."""
    self.execute("begin immediate")  # Prevents another process from adding any.
    for kind, table in _TABLES.items():
      query = f"select name from pragma_table_info('{table}')"
      known = {row["name"] for row in self.execute(query)}
      for column in _columns(kind):
        if column.split()[0] not in known:
          self.execute(f"alter table {table} add column {column}")

  def insert(self, row: File | Job | JobEvent) -> None:
    """Adds a row; the database numbers events."""
    values = dataclasses.asdict(row)
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    query = f"insert into {_TABLES[type(row)]} ({names}) values ({marks})"
    self.execute(query, list(values.values()))


@contextlib.contextmanager
def transaction(folder: pathlib.Path, owner: str | None) -> Iterator[Database]:
  """Yields a folder's database, as an owner sees it, for one transaction.

  Raises:
    sqlite3.Error: if the database is locked, full or damaged.
    OSError: if the folder cannot be found, or the deadline is over.
  """
  # SQLite would make a new database if the disk is not mounted.
  os.stat(folder / "files")
  left = deadline.get() - time.monotonic()
  patience = _PATIENCE if left == math.inf else min(_REQUEST_PATIENCE, left)
  path = folder / "jobs.sqlite"
  database = Database(path, max(0.0, patience), sqlite3.PARSE_DECLTYPES)
  database.row_factory, database.owner = sqlite3.Row, owner
  try:
    with contextlib.closing(database):
      database.execute("pragma synchronous = full")
      if not database.execute("select 1 from sqlite_master").fetchone():
        if any((folder / "files").iterdir()):
          raise sqlite3.DatabaseError(
            "it is missing or empty, but there are data sets: restore a copy, "
            "or empty the folder files"
          )
        database.executescript(_SCHEMA)
      with database:
        yield database
        if time.monotonic() > deadline.get():
          raise TimeoutError("the time for the request is over")
  except UnicodeDecodeError as error:  # From SQLite's own message.
    raise sqlite3.DatabaseError(
      f"jobs.sqlite: its schema is damaged: {error}"
    ) from error
  except sqlite3.Error as error:
    error.args = (f"jobs.sqlite: {error}",)
    raise
