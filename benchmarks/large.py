"""Runs a large T5 1.1 here: memory, seconds per step, a kill and answers.

  python benchmarks/large.py xl --folder=large
  python benchmarks/large.py xxl --int8 --folder=large --steps=3 --kill_at=0

writes a checkpoint of random weights, tensor by tensor, trains a prompt on it
with `python -m t5x.train`, kills and resumes a second run, compares the two,
and answers with `python -m t5x.infer`. It shows the peak memory of each process
beside the estimate of `prompt-tuning plan`. Writes a record to
`results/benchmarks/large/` and the page `results/large.md`. The checkpoint
stays in the folder for other runs; delete it yourself.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any
import zlib

import ml_dtypes
import numpy as np

import harness
from prompt_tuning.experiments.text_tables import Table
from reliability_parts import programs
from t5x.formats import stacking, t5x_v3
from t5x.formats.stored_arrays import StoredArray

_GIB = 2**30
_SECONDS = "train/timing/seconds"
_LONGEST_SECONDS = 4 * 3600.0
_LENGTHS = {"inputs": 128, "targets": 8}
_BATCH = 4
# Each split has more rows than a batch, with texts about as long as the inputs.
_ROWS = {"train": 40, "validation": 8, "test": 4}
_METHOD = ("methods/prompt_tuning", "prompts/random_uniform")
_TRAINS = (*_METHOD, "runs/train", "tasks/files")
_INFERS = (*_METHOD, "decoding/greedy", "runs/infer", "tasks/files")
_FLOAT = np.dtype(ml_dtypes.bfloat16)
# The standard deviation of the integers from -127 to 127.
_INT8_DEVIATION = 73.6
_BYTES = 259  # Including padding, end and unknown.
_VOCABULARY = """from __gin__ import dynamic_registration
import seqio
from prompt_tuning.data import vocabulary
vocabulary.of_model.vocabulary = @seqio.ByteVocabulary()
"""


def write_weights(folder: pathlib.Path, shapes: Mapping[str, Any]) -> str:
  """Writes a checkpoint of random weights, one tensor at a time.

  Args:
    folder: The folder to put `checkpoint_0` into.
    shapes: Path of the parameter -> shape and dtype; floats are written in
      bfloat16.

  Returns:
    The path of the checkpoint.
  """

  def deviation(name: str) -> float:
    return 1.0 if name.endswith("/embedding") else shapes[name].shape[0] ** -0.5

  def random(name: str) -> np.ndarray:
    shape = shapes[name].shape
    if name.endswith("_scale"):
      of = name.removesuffix("_scale")
      return np.full(shape, deviation(of) / _INT8_DEVIATION, _FLOAT)
    if len(shape) == 1:
      return np.ones(shape, _FLOAT)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if shapes[name].dtype == np.int8:
      values = rng.integers(-127, 128, shape, np.int8)
    else:
      values = rng.standard_normal(shape, np.float32) * deviation(name)
    if name.endswith("logits_dense/kernel"):
      values[:, _BYTES:] = 0  # Keeps answers inside the vocabulary.
    return values if values.dtype == np.int8 else values.astype(_FLOAT)

  arrays = {
    name: StoredArray(
      x.shape,
      x.dtype if x.dtype == np.int8 else _FLOAT,
      lambda name=name: random(name).__getitem__,
    )
    for name, x in shapes.items()
  }
  return t5x_v3.write_checkpoint(str(folder), 0, arrays)


def write_rows(folder: pathlib.Path) -> dict[str, str]:
  """Writes the files of a task; returns the macros that name them."""
  rng, macros = np.random.default_rng(0), {}
  for split, count in _ROWS.items():
    lines = ["text,target"]
    for _ in range(count):
      label = rng.integers(2)
      words = rng.choice(["cold", "warm", "green", "blue", "far"], size=24)
      text = " ".join(words)[: _LENGTHS["inputs"] - 8]
      lines.append(f"{'hot' if label else 'icy'} {text},{('no', 'yes')[label]}")
    file = folder / f"{split}.csv"
    file.write_text("\n".join(lines) + "\n")
    macros[f"{split.upper()}_FILE"] = str(file)
  return macros


class Model:
  """A model and the commands that use it, in one folder.

  Attributes:
    folder: The folder of everything that the commands write.
    files: The gin files of the model, below `gin/`.
    devices: The number of virtual devices, which share the model.
  """

  def __init__(self, folder: pathlib.Path, files: Sequence[str], devices: int):
    """Writes the task's rows and, unless they exist, the weights."""
    self.folder, self.files, self.devices = folder, files, devices
    folder.mkdir(parents=True, exist_ok=True)
    self._bindings = {
      **write_rows(folder),
      "BATCH_SIZE": _BATCH,
      "NUM_PARTITIONS": devices,
      "TASK_FEATURE_LENGTHS": _LENGTHS,
    }
    (folder / "bytes.gin").write_text(_VOCABULARY)
    shapes = self._shapes()
    self.parameters = sum(
      x.size for name, x in shapes.items() if not name.endswith("_scale")
    )
    self.base = folder / "checkpoint_0"
    if not self.base.exists():
      write_weights(folder, shapes)
    self._bindings["INITIAL_CHECKPOINT_PATH"] = str(self.base)

  def _shapes(self) -> dict[str, Any]:
    """Returns the shapes and dtypes of the parameters in the checkpoint."""
    import jax

    from t5x.planning import programs as planning

    files = [f"gin/{name}.gin" for name in (*self.files, *_TRAINS)]
    files.append(f"{self.folder}/bytes.gin")
    bindings = [f"{name} = {x!r}" for name, x in self._bindings.items()]
    with planning.read_command(files, bindings, jax.devices()) as command:
      apart = stacking.shapes_apart(command.initializer.param_shapes)
    return {k: x for k, x in apart.items() if not k.endswith("/prompt")}

  def words(
    self, program: str, files: Iterable[str], macros: Mapping[str, Any]
  ) -> list[str]:
    """Returns the words of a command, after `python -m`."""
    names, macros = [*self.files, *files], self._bindings | macros
    flags = harness.gin_flags(names, macros)
    return [program, *flags, f"--gin_file={self.folder}/bytes.gin"]

  def plan(self) -> dict[str, int]:
    """Returns the planned bytes of the weights and of each program."""
    plan = ["plan", "--json", f"--topology=cpux{self.devices}"]
    _, *flags = self.words("train", _TRAINS, {"TRAIN_STEPS_RELATIVE": 1})
    done = subprocess.run(
      [sys.executable, "-m", "prompt_tuning", *plan, *flags],
      stdout=subprocess.PIPE,
      check=True,
      text=True,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    return {
      "weights": self.devices * reports[0]["weights"],
      **{x["program"]: round(self.devices * x["peak"]) for x in reports},
    }

  def run(
    self, words: Sequence[str], *disturbances: programs.At
  ) -> dict[str, Any]:
    """Runs a command; returns its status, peak memory and seconds.

    Raises:
      RuntimeError: if it fails and was not killed.
    """
    start = time.monotonic()
    command = programs.Command(words, longest=_LONGEST_SECONDS)
    (ending,) = command.run(self.folder, *disturbances)
    if ending.status and not disturbances:
      raise RuntimeError(ending.output[-5000:])
    return {
      "status": ending.status,
      "peak_bytes": ending.peak_bytes,
      "seconds": round(ending.time - start, 1),
    }

  def train(self, name: str, steps: int, *disturbances: programs.At) -> Any:
    """Trains; evaluates and saves after half of the steps and at the end."""
    folder = self.folder / name
    macros = {
      "MODEL_DIR": str(folder),
      "TRAIN_STEPS_RELATIVE": steps,
      "EVAL_PERIOD": -(-steps // 2),
      "EVAL_STEPS": 1,
      "STATS_PERIOD": 1,
    }
    words = self.words("t5x.train", _TRAINS, macros)
    return self.run(words, *disturbances)

  def answer(self, name: str) -> dict[str, Any]:
    """Answers the rows of the test file with the prompt of a run."""
    folder = self.folder / "answers"
    macros = {
      "CHECKPOINT_PATH": str(self.folder / name),
      "INFER_OUTPUT_DIR": str(folder),
    }
    done = self.run(self.words("t5x.infer", _INFERS, macros))
    (file,) = folder.glob("*.jsonl-*")
    lines = map(json.loads, file.read_text().splitlines())
    return done | {"answers": [x["prediction"] for x in lines]}


def measure(model: Model, steps: int, kill_at: int) -> dict[str, Any]:
  """Runs everything on a model; returns the fields of a record.

  Args:
    model: The model.
    steps: Number of steps of a run.
    kill_at: The step at which a second run is killed; 0 for no second run.
  """
  record = {
    "model": model.files,
    "parameters": model.parameters,
    "devices": model.devices,
    "lengths": _LENGTHS,
    "batch": _BATCH,
    "planned": model.plan(),
    "train": model.train("whole", steps),
  }
  metrics = harness.metrics(model.folder / "whole")
  record["train"] |= {
    "losses": [x["train/loss"] for x in metrics if "train/loss" in x],
    "step_seconds": [round(x[_SECONDS], 2) for x in metrics if _SECONDS in x],
    "evals": json.loads((model.folder / "whole/record.json").read_text())[
      "evals"
    ],
  }
  if kill_at:
    kill = programs.At(programs.MOMENTS["step"], programs.kill, kill_at + 1)
    record["killed"] = model.train("killed", steps, kill)
    record["resumed"] = model.train("killed", steps)
    whole = programs.result(str(model.folder / "whole"))
    folder = str(model.folder / "killed")
    record["different"] = programs.differences(folder, whole)
  return record | {"answer": model.answer("whole")}


def page(records: Iterable[Mapping[str, Any]]) -> str:
  """Returns a page of records."""
  about = [
    "Random weights, read from a written checkpoint. Peak memory is of the",
    "whole process, with Python, JAX and TensorFlow; the plan's is of the",
    "program alone, all devices together, by `prompt-tuning plan`.",
  ]
  lines = []
  for record in sorted(records, key=lambda x: x["parameters"]):
    weights = record["planned"]["weights"]

    def row(name: str, program: str, record=record, weights=weights):
      peak, plan = record[name]["peak_bytes"], record["planned"][program]
      beyond = (peak - weights) / weights
      return (
        *(name, f"{weights / _GIB:.2f}", f"{plan / _GIB:.2f}"),
        *(f"{peak / _GIB:.2f}", f"{beyond:.2f}", f"{record[name]['seconds']}"),
      )

    seconds = harness.spread(record["train"]["step_seconds"][1:])
    kill = ""
    if "killed" in record:
      found = record["different"]
      kill = " The run that was killed and resumed left " + (
        f"other results: {', '.join(found)}." if found else "the same results."
      )
    of_train = [x for x in ("train", "killed", "resumed") if x in record]
    header = ("", "Weights, GiB", "Planned, GiB", "Peak, GiB")
    lines += [
      f"## {' with '.join(record['model'])}",
      "",
      f"{record['date'][:10]}, {harness.machine(record)}; "
      f"{record['parameters']:,} parameters, {record['devices']} virtual "
      f"devices that share the model, batches of {record['batch']}, inputs of "
      f"{record['lengths']['inputs']}.",
      "",
      Table(
        (*header, "Beyond the weights, in weights", "Seconds in all"),
        [*(row(x, "train") for x in of_train), row("answer", "evaluate")],
      ).markdown(),
      f"Seconds a step: {seconds}, after the first.{kill}",
      "",
    ]
  title = "The large sizes, run on this CPU"
  return harness.page("large.py", title, about, lines)


def main() -> None:
  parser = harness.parser(__doc__)
  add = parser.add_argument
  add("size", help="of gin/models/t5_1_1_*.gin")
  add("--int8", action="store_true", help="with gin/models/int8.gin")
  add("--folder", type=pathlib.Path, required=True, help="for large files")
  add("--steps", type=int, default=10, help="of a run")
  add("--kill_at", type=int, default=6, help="step to kill at; 0: never")
  add("--devices", type=int, default=4, help="virtual devices")
  args = parser.parse_args()
  if args.kill_at >= args.steps:
    parser.error("Expected --kill_at below --steps, so that there is a kill.")
  flag = f"--xla_force_host_platform_device_count={args.devices}"
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
  name = args.size + "_int8" * args.int8
  files = [f"models/t5_1_1_{args.size}", *["models/int8"] * args.int8]
  model = Model(args.folder / name, files, args.devices)
  record = measure(model, args.steps, args.kill_at)
  harness.write(f"large/{name}", record)
  text = page(harness.records("large"))
  (harness.RESULTS / "large.md").write_text(text)


if __name__ == "__main__":
  main()
