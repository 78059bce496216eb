"""The database of the jobs: rows of SQLite as files, jobs and events."""

import dataclasses
import json
import sqlite3
from typing import Any, TypeVar

from prompt_tuning.tuning_jobs import jobs as jobs_lib
from prompt_tuning.tuning_jobs.jobs import File, Job, JobEvent

# Without a tenant, all rows are visible.
IS_VISIBLE = "coalesce(?, owner) is owner"
_TABLES = {File: "files", Job: "jobs", JobEvent: "events"}
_FILES, _JOBS, _EVENTS = (
  ", ".join(field.name for field in dataclasses.fields(kind))
  for kind in _TABLES
)
_SCHEMA = f"""
create table if not exists files ({_FILES}, primary key (id));
create table if not exists jobs (
  {_JOBS.replace("settings", "settings settings")}, primary key (id));
create table if not exists events (
  {_EVENTS.replace("number", "number integer primary key autoincrement")} json);
create index if not exists events_of_jobs on events (job, number);
"""
sqlite3.register_adapter(dict, json.dumps)
sqlite3.register_converter("json", json.loads)
sqlite3.register_converter(
  "settings", lambda x: jobs_lib.Settings(**json.loads(x))
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
    query = f"select * from {_TABLES[kind]} where {where}"
    return [kind(**row) for row in self.execute(query, values)]

  def one(self, kind: type[Row], id: str) -> Row:
    """Returns the row of an id.

    Raises:
      UnknownError: if the id is unknown.
    """
    where = f"id = ? and {IS_VISIBLE}"
    if not (found := self.select(kind, where, id, self.owner)):
      raise jobs_lib.UnknownError(kind.__name__.lower(), id)
    return found[0]

  def insert(self, row: File | Job | JobEvent) -> None:
    """Adds a row; the database numbers events."""
    values = dataclasses.asdict(row)
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    query = f"insert into {_TABLES[type(row)]} ({names}) values ({marks})"
    self.execute(query, list(values.values()))

  def make_tables(self) -> None:
    """Makes the tables, or adds the columns that older ones lack."""
    self.executescript(_SCHEMA)
    self.execute("begin immediate")  # No other process adds them meanwhile.
    for kind, table in _TABLES.items():
      rows = self.execute(f"pragma table_info({table})")
      known = {row["name"] for row in rows}
      for field in dataclasses.fields(kind):
        if field.name not in known:
          self.execute(f"alter table {table} add column {field.name}")
