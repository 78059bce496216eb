"""The tables of a store of jobs, also of one that is older."""

from collections.abc import Mapping
import json
import sqlite3
import time
from typing import Any

from prompt_tuning.tuning_jobs.jobs import CANCELLED

_SCHEMA = """
create table if not exists files (
  id text primary key, name text, bytes integer, pairs integer,
  created integer);
create table if not exists jobs (
  number integer primary key autoincrement, id text unique, created integer,
  status text, prompt text, settings text, training_file text,
  validation_file text, error text, finished integer, score real, step integer,
  attempts integer default 0, is_cancelled integer default 0);
create table if not exists events (
  number integer primary key autoincrement, job text, created real, kind text,
  message text, data text);
create index if not exists events_of_jobs on events (job, number);
"""
# What tables of earlier releases lack. `saved`: the last checkpoint's step;
# `model` and `fingerprint`: the base model's name, and what it is known by.
_ADDED = {
  "tries": "integer default 0",
  "saved": "integer default -1",
  "model": "text",
  "fingerprint": "text",
}


def make(connection: sqlite3.Connection) -> None:
  """Makes the tables, or adds what they lack."""
  connection.execute("pragma journal_mode = wal")
  connection.executescript(_SCHEMA)
  connection.execute("begin immediate")  # Others may open it now, too.
  there = {row[1] for row in connection.execute("pragma table_info(jobs)")}
  for name, kind in _ADDED.items():
    if name not in there:
      connection.execute(f"alter table jobs add column {name} {kind}")


def note(
  connection: sqlite3.Connection,
  job: str,
  kind: str,
  message: str,
  data: Mapping[str, Any],
) -> None:
  """Adds an event."""
  connection.execute(
    "insert into events (job, created, kind, message, data) "
    "values (?, ?, ?, ?, ?)",
    [job, time.time(), kind, message, json.dumps(data)],
  )


def end(
  connection: sqlite3.Connection,
  id: str,
  status: str,
  condition: str,
  error: str | None = None,
  score: float | None = None,
  step: int | None = None,
) -> None:
  """Ends a job, and tells of it, where the condition holds."""
  changed = connection.execute(
    "update jobs set status = ?, error = ?, score = ?, step = ?, finished = ? "
    f"where id = ? and {condition}",
    [status, error, score, step, int(time.time()), id],
  ).rowcount
  if changed:
    message = f"The job has {status}." if status != CANCELLED else "Cancelled."
    note(connection, id, "status", error or message, {"status": status})
