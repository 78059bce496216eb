"""Options of a cluster, as command lines give them to submitit."""

from collections.abc import Sequence
import importlib.util


def read(given: Sequence[str]) -> dict[str, str | int | bool]:
  """Reads options, NAME=VALUE each; numbers do not begin with 0.

  Args:
    given: Such as "timeout_min=60", "slurm_account=0123" or "use_srun=False".

  Raises:
    ValueError: if one has no "=".
  """
  options: dict[str, str | int | bool] = {}
  for text in given:
    name, equals, value = text.partition("=")
    if not equals:
      raise ValueError(f"Expected --option NAME=VALUE, got {text}.")
    options[name] = value
    if value in ("True", "False"):
      options[name] = value == "True"
    elif value.isdecimal() and str(int(value)) == value:
      options[name] = int(value)
  return options


def check_submitit() -> None:
  """Checks that there is a submitit to submit with.

  Raises:
    ValueError: if it is not installed.
  """
  if importlib.util.find_spec("submitit") is None:
    raise ValueError(
      "--submit needs submitit: pip install 'prompt-tuning[cluster]'."
    )
