"""Options for submitit from the command line."""

from collections.abc import Sequence
import importlib.util

# Those of submitit.
_CLUSTERS = ("debug", "local", "slurm")


def read(
  cluster: str | None, given: Sequence[str]
) -> dict[str, str | int | bool]:
  """Parses options of the form NAME=VALUE, and checks the cluster.

  Args:
    cluster: The cluster's name in submitit, from --submit, or None.
    given: Options such as "timeout_min=60" or "use_srun=False". A number with a
      leading 0, as in "slurm_account=0123", stays a string.

  Raises:
    ValueError: if an option has no "=", options are given without a cluster,
      submitit is not installed, or it does not know the cluster.
  """
  if given and not cluster:
    raise ValueError("--option is for --submit.")
  if cluster and importlib.util.find_spec("submitit") is None:
    raise ValueError(
      "--submit needs submitit: pip install 'prompt-tuning[cluster]'."
    )
  if cluster and cluster not in _CLUSTERS:
    raise ValueError(
      f"Expected --submit to be one of {', '.join(_CLUSTERS)}, got {cluster!r}."
    )
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
