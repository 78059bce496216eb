"""Checks of a configuration, before anything is read or compiled.

They yield problems, which are sentences with a mistake, its place and a remedy.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
import difflib
import os
import re

from t5x.configuration import arguments, reading, signatures
from t5x.configuration.reading import Macro, suggestion
from t5x.configuration.resolution import Bindings, Setting, resolve

# Kinds that are never suggested, because other kinds give the same macros.
_WHOLE = ("recipes", "runs")


def refuse(problems: Iterable[str]) -> None:
  """Raises ValueError if there are problems; the message has all of them."""
  found = list(dict.fromkeys(problems))
  if len(found) > 1:
    found = [f"{len(found)} problems.", *(f"* {x}" for x in found)]
  if found:
    raise ValueError("\n".join(found))


def missing(
  bindings: Bindings, paths: Sequence[str], given: Collection[str] = ()
) -> Iterator[str]:
  """Yields problems of macros without a value.

  Args:
    bindings: The configuration.
    paths: Folders of gin files.
    given: Macros that get a value elsewhere.

  Yields:
    A sentence for each kind of gin file to add, one for macros whose value a
    later file removes, and one for the flags to give.
  """
  lacking = bindings.lacking - set(given)
  by_kind = reading.files_by_kind(paths)
  if taken := lacking & bindings.taken_away:
    lacking -= taken
    order = ", ".join(f"gin/{kind}" for kind in by_kind)
    yield (
      f"A later file removes the value of {', '.join(sorted(taken))}. Name "
      f"files in the order {order}: the model comes before the recipe."
    )
  kinds = {os.path.basename(os.path.dirname(x)) for x in bindings.files}
  for kind, files in by_kind.items():
    if not lacking or kind in {*kinds, *_WHOLE}:
      continue
    names = [f"gin/{kind}/{file}.gin" for file in files]
    values = [lacking & Bindings([x], paths=paths).defined for x in names]
    if found := set().union(*values):
      lacking = lacking - found
      choices = (file for file, x in zip(files, values, strict=True) if x)
      yield (
        f"A file of gin/{kind} gives {', '.join(sorted(found))}: add "
        f"--gin_file=gin/{kind}/NAME.gin, where NAME is one of "
        f"{', '.join(choices)}."
      )
  if lacking:
    flags = " ".join(f"--gin.{name}=..." for name in sorted(lacking))
    yield (
      f"The gin files require {', '.join(sorted(lacking))}. Give each a value: "
      f"{flags}"
    )


def _of_files(paths: Sequence[str]) -> Iterator[tuple[str, reading.Binding]]:
  """Yields the names of gin files, each with a binding of the file itself."""
  for kind, files in reading.files_by_kind(paths).items():
    for name in (f"gin/{kind}/{file}.gin" for file in files):
      for x in reading.from_file(name, paths):
        if isinstance(x, reading.Binding):
          yield name, x


def definers(macro: str, paths: Sequence[str]) -> list[str]:
  """Returns the gin files that define a macro themselves."""
  found = _of_files(paths)
  return [name for name, x in found if not x.parameter and x.label == macro]


def unregistered(error: str, paths: Sequence[str]) -> str:
  """Returns the remedy for a command's function that none of its files uses.

  Args:
    error: gin's message, which quotes the function.
    paths: Folders of gin files.
  """
  quoted = re.search(r"'@?(?:[^']*/)?([\w.]+)", error)
  function = quoted[1] if quoted else ""
  users: dict[str, str] = {}
  for name, x in _of_files(paths):
    for ref in reading.leaves(x.value):
      if isinstance(ref, reading.Reference):
        users.setdefault(ref.name.spelled, name)
  if user := users.get(function):
    return (
      f" No gin file of this command uses {function}. {user} does: add "
      f"--gin_file={user}."
    )
  return suggestion(difflib.get_close_matches(function, users)) or (
    " A command can bind only functions that its gin files use: add such a "
    "file."
  )


def unknown(
  gin_bindings: Sequence[str],
  macros: Collection[str],
  paths: Sequence[str] = (),
) -> Iterator[str]:
  """Yields problems of macros that a command binds but that do not exist.

  No file defines such a macro, and no other binding uses it.

  Args:
    gin_bindings: The bindings of the command.
    macros: The macros that its files define.
    paths: Folders of gin files.

  Yields:
    A sentence with the file that defines the macro, or with macros of similar
    spelling.
  """
  # Text of several lines may define and use its own macros.
  texts = [x for x in gin_bindings if "\n" not in x.strip()]
  bindings = [x for text in texts for x in reading.from_text(text)]
  values = [leaf for x in bindings for leaf in reading.leaves(x.value)]
  known = {x.name for x in values if isinstance(x, Macro)}.union(macros)
  for x in bindings:
    if x.parameter or x.scope or x.label in known:
      continue
    if files := definers(x.label, paths):
      remedy = (
        f" {' and '.join(files)} would: add --gin_file={files[0]}, or leave "
        f"{x.label} out."
      )
    else:
      # The files' macros are in capitals; a user may forget that.
      near = difflib.get_close_matches(x.label.upper(), sorted(macros))
      remedy = suggestion(near)
    yield (
      f"No gin file of this command defines {x.label}, so '{x.label} = "
      f"{x.text}' would change nothing.{remedy}"
    )


def without_effect(
  bindings: Bindings, function: str, texts: Iterable[str]
) -> Iterator[tuple[str, str | None]]:
  """Yields a command's bindings that have no effect, whatever their value.

  Python code may call a function that gin does not reach, but never in a scope.

  Args:
    bindings: The whole configuration.
    function: The program's function.
    texts: The bindings of the command, which are a part of `bindings`.

  Yields:
    A left side, such as "train/utils.DatasetConfig.seed", and the problem if it
    is in a scope that nothing uses; it names the existing scopes.
  """
  settings = resolve(bindings, function)
  for x in (x for text in texts for x in reading.from_text(text)):
    other = Bindings(texts=[f"{x.label} = 'another value'"], start=bindings)
    if resolve(other, function) != settings:
      continue
    target = bindings.known(x.target)
    own = [each for each in settings if each.function == target]
    scopes = {each.name.rpartition("/")[0] for each in own or settings}
    exists = any(f"{each}/".startswith(f"{x.scope}/") for each in scopes)
    if not x.scope or not x.parameter or not target.module or exists:
      yield x.label, None
      continue
    scopes = sorted(scopes - {""})
    near = difflib.get_close_matches(x.scope, scopes) or scopes
    yield (
      x.label,
      f"Nothing uses {x.target.spelled} in the scope {x.scope!r}, so "
      f"{x.label!r} would change nothing.{suggestion(near)}",
    )


def wrong_values(settings: Sequence[Setting], main: str) -> Iterator[str]:
  """Yields problems of values that do not fit the annotations of parameters.

  Args:
    settings: The resolved configuration.
    main: The program's module, such as "t5x.train".
  """
  told = set()
  for x in settings:
    label = x.macro or x.name
    if x.function is None or not x.function.module or label in told:
      continue
    module = x.function.module.replace("__main__", main)
    hints = signatures.parameters(f"{module}.{x.function.path}") or {}
    if x.parameter in hints:
      hint = hints[x.parameter]
      if arguments.fits(x.value, hint):
        continue
      where = f" ({x.name})" if x.macro else ""
      expected = arguments.describe(hint)
      text = f"{label}={x.text}{where}: expected {expected}."
      if isinstance(x.value, str) and "str" not in expected:
        text += " Numbers and @references take no quotes."
    elif hints and signatures.OTHERS not in hints:
      near = difflib.get_close_matches(x.parameter, hints)
      text = (
        f"{x.name}: {x.function.path} has no parameter {x.parameter!r}."
        f"{suggestion(near)}"
      )
    else:
      continue
    told.add(label)
    yield text


# The settings to pass to `wrong_periods`, in order.
PERIODS = (
  "train.eval_period",
  "t5x.SaveCheckpointConfig.period",
  "train.stats_period",
  "train.total_steps",
  "train.relative_steps",
)


def wrong_periods(
  eval_period: int | None,
  checkpoint_period: int | None,
  stats_period: int | None,
  total_steps: int | None,
  relative_steps: int | None,
) -> Iterator[str]:
  """Yields problems of a training run's periods and steps; see `Plan`."""
  given = [x for x in (eval_period, checkpoint_period, stats_period) if x]
  if any(max(given) % x for x in given):
    yield (
      f"Expected periods that divide the largest, got {eval_period} steps "
      f"between evaluations (EVAL_PERIOD), {checkpoint_period} between "
      f"checkpoints and {stats_period} between losses (STATS_PERIOD)."
    )
  steps = (total_steps, relative_steps)
  if steps.count(None) != 1:
    yield (
      "Give one of TRAIN_STEPS, counted from pretraining step 0, and "
      f"TRAIN_STEPS_RELATIVE, counted from the restored step; got {steps}."
    )
