"""Which bindings of a command change nothing, or name what is not there."""

from collections.abc import Collection, Iterable, Iterator, Sequence
import difflib
import re

from absl import logging
from gin import config_parser

from t5x.configuration import gin_resolution
from t5x.configuration.gin_resolution import Bindings, Setting
from t5x.configuration.gin_text import statements


def names(
  bindings: Bindings, function: str, given: Iterable[str]
) -> Iterator[str]:
  """Yields what is bound and changes nothing, whatever its value.

  Args:
    bindings: The configuration.
    function: Of the program, which is configured.
    given: Those of its bindings that are asked about.

  Yields:
    Names as the bindings have them, such as "train/utils.DatasetConfig.seed".
  """
  before = _texts(gin_resolution.resolve(bindings, function))
  for text in given:
    for x in statements(text):
      if not isinstance(x, config_parser.BindingStatement):
        continue
      name = "/".join(filter(None, (x.scope, x.selector)))
      name = ".".join(filter(None, (name, x.arg_name)))
      other = bindings.with_bindings([f"{name} = 'another value'"])
      if _texts(gin_resolution.resolve(other, function)) == before:
        yield name


def _texts(settings: Iterable[Setting]) -> list[tuple[str, str]]:
  return [(x.name, x.text) for x in settings]


def check(bindings: Bindings, function: str, given: Iterable[str]) -> None:
  """Refuses bindings in scopes that nothing uses; warns of others like that.

  What gin does not reach, Python may call, but not in any scope.

  Args:
    bindings: The configuration.
    function: Of the program, which is configured.
    given: Those of its bindings that a command adds.

  Raises:
    ValueError: if there is one; it names scopes that there are.
  """
  settings = gin_resolution.resolve(bindings, function)
  for name in names(bindings, function, given):
    scope, slash, rest = name.rpartition("/")
    selector, dot, _ = rest.rpartition(".")
    target = bindings.name(selector, {}) if dot else None
    of_target = [x for x in settings if x.function == target]
    scopes = {x.name.rpartition("/")[0] for x in of_target or settings}
    there = any(f"{x}/".startswith(f"{scope}/") for x in scopes)
    if slash and target and target.module and not there:
      scopes = sorted(scopes - {""})
      near = difflib.get_close_matches(scope, scopes) or scopes
      raise ValueError(
        f"Nothing uses {selector} in the scope {scope!r}, so {name!r} would "
        "change nothing."
        + (f" Did you mean {' or '.join(near)}?" if near else "")
      )
    logging.warning("Nothing uses %s here: to bind it changes nothing.", name)


def refuse_unknown_macros(
  gin_bindings: Sequence[str], macros: Collection[str]
) -> None:
  """Refuses bindings of macros that no file defines and no binding uses.

  Args:
    gin_bindings: Of a command.
    macros: Those of its files.

  Raises:
    ValueError: if there is one; it names the macros that are spelled alike.
  """
  for binding in gin_bindings:
    name, equals, _ = (x.strip() for x in binding.partition("="))
    if not equals:
      continue  # An import; of anything else gin itself complains.
    is_used = any(re.search(rf"%{re.escape(name)}\b", x) for x in gin_bindings)
    # A text of several lines is a configuration of its own.
    if not name.isidentifier() or name in macros or is_used:
      continue
    # The names of the files' macros are in capitals, and a user's may not be.
    near = difflib.get_close_matches(name.upper(), sorted(macros), n=3)
    raise ValueError(
      f"No gin file defines {name}, so {binding!r} would change nothing."
      + (f" Did you mean {' or '.join(near)}?" if near else "")
    )
