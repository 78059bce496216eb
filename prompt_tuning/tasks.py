"""Registers every task with seqio: import it, then ask seqio by name."""

from prompt_tuning.data import superglue  # noqa: F401
from prompt_tuning.mini import tasks  # noqa: F401
from prompt_tuning.mini.ladder import tasks as ladder_tasks  # noqa: F401
