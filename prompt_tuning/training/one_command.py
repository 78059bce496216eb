"""`prompt-tuning tune MODEL DATA`: a training command made of two names.

It runs `t5x.train` with bindings that follow from the model's files, the data
and the device. The run can be resumed, and the user's bindings win.
"""

import collections
from collections.abc import Collection, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import re
import sys
from typing import Any

from etils import epath
import seqio

from prompt_tuning import tasks  # noqa: F401  # Registers them.
from prompt_tuning.data import files as files_lib
from prompt_tuning.data import task_facts, task_lookup, task_names, task_rows
from prompt_tuning.inference import base_models, frozen_model
from prompt_tuning.interop import hub
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.training import defaults, next_steps
from t5x import checkpoints, gin_utils, metrics
from t5x.configuration import checks, reading, resolution
from t5x.runs import command_line, evaluation, training

_RECIPE = "gin/recipes/prompt_tuning.gin"
_RUN = "gin/runs/train.gin"
_BY_LENGTH = "gin/runs/by_length.gin"
_DATA = "gin/tasks/files.gin"
_INT8 = "gin/models/int8.gin"
# The fields of a network that a checkpoint's arrays tell.
SIZES = (
  *("vocab_size", "emb_dim", "num_heads", "num_encoder_layers"),
  *("num_decoder_layers", "head_dim", "mlp_dim", "mlp_activations"),
  *("logits_via_embedding", "relative_attention_num_buckets"),
)
_WRAPS = defaults.Setting(
  "hugging_face.vocabulary.use_chat_template",
  *(True, "the model's own wraps each input"),
)
_SHOWN_EXAMPLES, _SHOWN_CHARACTERS = 3, 160


@dataclasses.dataclass(frozen=True)
class Command:
  """A training command.

  Attributes:
    folder: Its MODEL_DIR.
    task: The name of its task.
    gin_files: Its gin files: the model's, the recipe, the data's, the user's.
    bindings: Its bindings; the user's come last.
    settings: The settings that were chosen, with their reasons.
  """

  folder: str
  task: str
  gin_files: Sequence[str]
  bindings: Sequence[str]
  settings: Sequence[defaults.Setting]

  def words(self) -> list[str]:
    """Returns the words of the equivalent command of `t5x.train`."""
    bindings = [x.partition("=") for x in self.bindings]
    return [
      *(f"--gin_file={file}" for file in self.gin_files),
      *(f"--gin.{k.strip()}={value.strip()}" for k, _, value in bindings),
    ]


def make(
  model: str,
  data: str,
  folder: str | None = None,
  gin_files: Sequence[str] = (),
  gin_bindings: Sequence[str] = (),
) -> Command:
  """Makes the command of a model and data, after a look at both.

  Args:
    model: A Hugging Face folder, a name on the hub, or a checkpoint.
    data: A file as `row_files.read` takes it, a data set on the hub, or a
      registered task.
    folder: Its MODEL_DIR, unless a binding says another; by default it is named
      after the model and the data.
    gin_files: The user's gin files; one that includes a run, as those in
      gin/recipes do, replaces the recipe.
    gin_bindings: The user's bindings, which win.

  Raises:
    ValueError: if the model or the data cannot be read.
  """
  base = checkpoints.open_checkpoint(model)
  given = _given(gin_files, gin_bindings, base.step)
  named = given.get("VOCABULARY_FILE")
  opened = frozen_model.FrozenModel.load(model, named)
  config, words = opened.config, opened.vocabulary
  folder = str(given.get("MODEL_DIR") or folder or _folder(model, data))
  values: dict[str, Any] = {"INITIAL_CHECKPOINT_PATH": model}
  values["MODEL_DIR"] = folder
  model_file = "decoder" if len(config.stacks) == 1 else "t5gemma"
  if isinstance(config, T5Config):
    model_file = "ladder_t5"
    if isinstance(words, seqio.ByteVocabulary):
      model_file = "byt5"
    elif not base_models.is_of_ladder(base):
      model_file = "t5_1_1" if words.extra_ids else "mt5"
      values["VOCABULARY_FILE"] = named or base_models.vocabulary_file(model)
    values |= {f"network.T5Config.{x}": getattr(config, x) for x in SIZES}
  known = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
  is_task = data in known
  values |= {"TASK": data} if is_task else _data_bindings(data, known)
  bindings = [f"{name} = {value!r}" for name, value in values.items()]
  recipes = [x for x in gin_files if _RUN in _with_includes(x)]
  # Runs, which recipes include, come before the files that replace parts.
  files = [
    f"gin/models/{model_file}.gin",
    *(recipes or [_RECIPE]),
    *([_INT8] if config.base_weights else []),
    *([] if is_task else [_DATA]),
    *(x for x in gin_files if x not in recipes),
  ]
  _put_programs_where_gin_finds_them()
  task = data
  if not is_task:
    with gin_utils.bound_arguments(
      files_lib.file_task, files, [*bindings, *gin_bindings]
    ) as arguments:
      task = files_lib.file_task(**arguments)
  facts = defaults.Facts(
    config,
    sum(x.size for x in base.arrays.values()),
    task_lookup.find(task, "train").num_input_examples("train") or 1,
    task_facts.lengths(task, words)["inputs"],
    len(task_rows.ROWS[task].labels) if task in task_rows.ROWS else 0,
    *(*defaults.devices(), defaults.prompt_rate(opened), given),
  )
  wraps = [_WRAPS] if getattr(words, "chat_template", None) else []
  choices = [*wraps, *defaults.choose(facts)]
  is_by_length = any(x.name == defaults.BY_LENGTH for x in choices)
  if is_by_length and "NUM_MICROBATCHES" not in given and not recipes:
    files.insert(2, _BY_LENGTH)
  macros = next_steps.macros_of(files, reading.search_paths())
  settings = [
    x
    for x in choices
    if x.name not in given and ("." in x.name or x.name in macros)
  ]
  bindings += [f"{x.name} = {x.value!r}" for x in settings]
  return Command(folder, task, files, [*bindings, *gin_bindings], settings)


def run(command: Command) -> None:
  """Trains, evaluates the frozen model, and prints the results.

  Raises:
    SystemExit: if a signal stopped the run; the same command resumes it.
    ValueError: for a wrong configuration.
  """
  outcomes: list[Any] = []
  trained = command.gin_files, command.bindings
  _run("train", training.train, "step", *trained, outcomes.append)
  best = outcomes.pop().best  # The state leaves the memory.
  place = os.path.join(command.folder, "frozen")
  others = ["OPTIMIZER = None", f"EVAL_OUTPUT_DIR = {place!r}"]
  rest = [
    x for x in command.gin_files if x in (_DATA, _INT8) or "decoding/" in x
  ]
  files = [command.gin_files[0], "gin/runs/eval.gin", *rest]
  # The user's files may say which rows and columns were trained on.
  paths = reading.search_paths()
  found = next_steps.macros_of(command.gin_files, paths)
  of_data = next_steps.macros_of(rest, paths).items()
  bindings = [f"{k} = {found[k]}" for k, x in of_data if x != found[k]]
  bindings += command.bindings
  useful = next_steps.useful(bindings, command.gin_files, files, paths)
  bindings = [*(f"{k} = {x}" for k, x in useful.items()), *others]
  frozen: list[Any] = []
  _run("eval", evaluation.evaluate, "example", files, bindings, frozen.append)
  print(_report(command, best, frozen[0]))


def _run(
  program: str,
  function: Any,
  unit: str,
  gin_files: Sequence[str],
  gin_bindings: Sequence[str],
  show: Any,
) -> None:
  """Runs a program of `t5x` in this process, as its command line does."""
  with gin_utils.bound_arguments(function, gin_files, gin_bindings) as found:
    bindings = resolution.Bindings(texts=[gin_utils.config_text()])
    name = function.__name__
    settings = resolution.resolve(bindings, name)
    checks.refuse(checks.wrong_values(settings, f"t5x.{program}"))
    bound = functools.partial(function, **found)
    command_line.run(bound, program, unit, show)


def _put_programs_where_gin_finds_them() -> None:
  for function in (training.train, evaluation.evaluate):
    setattr(sys.modules["__main__"], function.__name__, function)


def _given(
  gin_files: Sequence[str], gin_bindings: Sequence[str], first_step: int
) -> dict[str, Any]:
  """Returns label -> value, or None, of what the user decides."""
  paths = reading.search_paths()
  files = [
    x
    for file in gin_files
    for x in _with_includes(file)
    if x == file or not x.startswith("gin/runs/")  # These have defaults.
  ]
  found = [x for file in files for x in reading.from_file(file, paths)]
  found += [x for text in gin_bindings for x in reading.from_text(text)]
  own = {x.label: x.value for x in found if isinstance(x, reading.Binding)}
  if "EVAL_PERIOD" in own:  # The other divides it.
    own.setdefault("STATS_PERIOD", None)
  if isinstance(last := own.get("TRAIN_STEPS"), int):
    own.setdefault("TRAIN_STEPS_RELATIVE", last - first_step)
  return own


def _with_includes(file: str) -> list[str]:
  """Returns a gin file, after those that it includes and may override."""
  found = reading.from_file(file, reading.search_paths())
  included = [_with_includes(x) for x in found if isinstance(x, str)]
  return [*itertools.chain(*included), file]


def _folder(model: str, data: str) -> str:
  """Returns a folder named after the model and the data."""
  stem = data
  if files_lib.is_data(data):
    stem = pathlib.PurePath(data).stem
  model = os.path.abspath(model) if os.path.exists(model) else model
  path = pathlib.PurePath(model)
  # The folder of a checkpoint says less than the one around it.
  path = next(x for x in (path, *path.parents) if x.name[:11] != "checkpoint_")
  name = re.sub(r"[^\w.-]+", "_", f"{path.name}-{stem}")
  return os.path.join("runs", "tune", name)


def _data_bindings(data: str, names: Collection[str]) -> dict[str, str]:
  """Returns the bindings of a file, or of a data set on the hub."""
  if os.path.exists(data) or files_lib.is_data(data):
    return {"TRAIN_FILE": data}
  if not {"/", "."} & set(data):
    raise ValueError(
      "Expected a file, OWNER/NAME of a data set on the hub, or a task. "
      f"{task_names.unknown(data, names)}"
    )
  found = hub.data_files(data)
  # Test splits on the hub often lack their labels, and training reads none.
  return {f"{x.upper()}_FILE": y for x, y in found.items() if x != "test"}


def _report(
  command: Command,
  best: Mapping[str, Any] | None,
  frozen: metrics.MetricsByTask,
) -> str:
  """Returns the end of the command: scores, examples, and what to do next."""
  lines = []
  for task, before in frozen.items():
    if best is None:
      break
    name = f"{task}-{best['step']:06d}.jsonl"
    path = epath.Path(command.folder, "inference_eval", name)
    with contextlib.suppress(OSError):
      tuned = [json.loads(x) for x in path.read_text().splitlines()]
      lines += [f"\n{task}:"] if len(frozen) > 1 else []
      lines += _scores(tuned, before, best["metrics"][task], best["step"])
  prompt = os.path.join(command.folder, "prompt.safetensors")
  if epath.Path(prompt).exists():
    lines += [
      f"\nPrompt: {prompt}",
      f"Try it:    prompt-tuning try {prompt}",
      f"Serve it:  prompt-tuning serve {prompt}",
    ]
  return "\n".join(lines)


def _scores(
  tuned: Sequence[Mapping[str, Any]],
  before: Mapping[str, float],
  after: Mapping[str, float],
  step: int,
) -> Iterator[str]:
  """Yields lines on a task: predictions, and the metrics of two models."""
  metric = next(x for x in ("accuracy", "em", *before) if x in before)
  pairs = [
    (x["input"]["inputs_pretokenized"], x["input"]["targets_pretokenized"])
    for x in tuned
  ]
  counts = collections.Counter(target for _, target in pairs)
  target, count = counts.most_common(1)[0]
  yield (
    f"\n{metric} on {len(tuned):,} rows that were not trained on; the prompt "
    "was chosen by them"
  )
  if metric in ("accuracy", "em"):  # Others do not score it by its share.
    share = 100 * count / len(tuned)
    yield f"  most frequent answer  {share:5.1f}  ({target})"
  yield f"  frozen model          {before[metric]:5.1f}"
  yield f"  with the prompt       {after[metric]:5.1f}  (at step {step})\n"
  for (text, target), row in list(zip(pairs, tuned, strict=True))[
    :_SHOWN_EXAMPLES
  ]:
    answer = row["output"]
    verdict = "right" if answer == target else f"expected {target}"
    yield f"  {_cut(text)}\n    -> {_cut(answer)}  ({verdict})"


def _cut(text: str) -> str:
  text = " ".join(text.split())
  if len(text) > _SHOWN_CHARACTERS:
    return f"{text[: _SHOWN_CHARACTERS - 3]}..."
  return text
