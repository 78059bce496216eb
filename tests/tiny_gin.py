"""Runs of the tiny T5 through gin: testdata/tiny.gin and a method's file."""

from collections.abc import Callable
import pathlib
from typing import Any

import gin
import jax
import tiny

import prompt_tuning
from t5x import checkpoints, gin_utils, models, partitioning, trainer, utils
from t5x import eval as eval_lib
from t5x import infer as infer_lib
from t5x import train as train_lib

_TESTS = pathlib.Path(__file__).parent
_PROMPT = ["gin/prompts/random_uniform.gin"]
# Method -> the stem of its file, what other files it takes, and bindings.
METHODS: dict[str, tuple[str, list[str], list[str]]] = {
  "prompt_tuning": ("prompt_tuning", _PROMPT, ["PROMPT_LENGTH = 4"]),
  "multitask_prompt": (
    "multitask_prompt",
    _PROMPT,
    # In byte pieces, an input of the tiny task begins with one of these.
    ["PROMPT_LENGTH = 4", f"TASK_PREFIXES = {list('abcdefgh')}"],
  ),
  "prefix_tuning": ("prefix_tuning", [], ["PREFIX_LENGTH = 4"]),
  "prefix_tuning through an MLP": (
    "prefix_tuning",
    [],
    ["PREFIX_LENGTH = 4", "PREFIX_HIDDEN_DIM = 8"],
  ),
  "lora": ("lora", [], ["LORA_RANK = 2"]),
  "adapter": ("adapter", [], ["ADAPTER_SIZE = 4"]),
  "prompt tuning and LoRA": (
    "prompt_tuning",
    [*_PROMPT, "gin/methods/lora.gin"],
    ["PROMPT_LENGTH = 4", "LORA_RANK = 2"],
  ),
  "ia3": ("ia3", [], []),
  "model_tuning": ("model_tuning", [], []),
}


PROGRAMS = {
  "train": train_lib.train,
  "eval": eval_lib.evaluate,
  "infer": infer_lib.infer,
}


def configure_files(
  program: str, files: list[str], bindings: list[str], **macros: Any
) -> None:
  """Makes the configuration of a program the one that gin knows."""
  import __main__

  for function in PROGRAMS.values():  # Where the gin files look for them.
    setattr(__main__, function.__name__, function)
  gin.clear_config()
  macros = {
    "MIXTURE_OR_TASK_NAME": tiny.TASK,
    "MIXTURE_OR_TASK_MODULE": "tiny",
    "BATCH_SIZE": tiny.BATCH_SIZE,
    **macros,
  }
  gin_utils.parse_gin_flags(
    [prompt_tuning.gin_search_path()],
    [
      str(_TESTS / "testdata/tiny.gin"),
      *files,
      f"gin/runs/{program}.gin",
    ],
    [*bindings, *(f"{name} = {value!r}" for name, value in macros.items())],
  )


def configure(method: str, program: str = "train", **macros: Any) -> None:
  """Configures a program with a method."""
  stem, files, bindings = METHODS[method]
  macros = {"INITIAL_CHECKPOINT_PATH": "none", **macros}
  if program == "train":
    macros = {
      "MODEL_DIR": "none",
      "TASK_FEATURE_LENGTHS": tiny.LENGTHS,
      "TRAIN_STEPS_RELATIVE": 3,
      "EVAL_PERIOD": 3,
      "EVAL_STEPS": 1,
      **macros,
    }
  configure_files(
    program, [f"gin/methods/{stem}.gin", *files], bindings, **macros
  )


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function or class with its parameters bound by gin."""
  return gin.get_configurable(function)


def model(method: str) -> models.EncoderDecoderModel:
  configure(method)
  return configured(models.EncoderDecoderModel)()


class _FrozenPart(trainer.BaseAction):
  """Notes the fingerprint of what is frozen whenever a run is evaluated."""

  def __init__(self):
    self.fingerprints = []

  def run(self, train_state, metrics_by_task) -> bool:
    self.fingerprints.append(checkpoints.fingerprint(train_state.frozen))
    return False


def train(method: str, base: str, folder: pathlib.Path) -> str:
  """Runs what `python -m t5x.train` does, for 3 steps.

  Returns:
    The fingerprint of what was frozen, after them.
  """
  configure(method, INITIAL_CHECKPOINT_PATH=base, MODEL_DIR=str(folder))
  train = configured(train_lib.train)
  frozen = _FrozenPart()
  outcome = train(train_eval_dataset_cfg=None, actions={"INFER_EVAL": [frozen]})
  assert outcome.status == "finished"
  return frozen.fingerprints[-1]


def evaluate(method: str, run: pathlib.Path, folder: pathlib.Path) -> Any:
  """Runs what `python -m t5x.eval` does, on the latest checkpoint of a run."""
  configure(
    method,
    "eval",
    INITIAL_CHECKPOINT_PATH="none",
    CHECKPOINT_PATH=str(run),
    EVAL_OUTPUT_DIR=str(folder),
  )
  return configured(eval_lib.evaluate)()


def start(
  method: str, base: str, num_partitions: int = 1, seed: int = 0
) -> tuple[models.EncoderDecoderModel, Any, Any, Any]:
  """Begins a run: its model, partitioner, initializer and first state."""
  configure(method, INITIAL_CHECKPOINT_PATH=base)
  model = configured(models.EncoderDecoderModel)()
  partitioner = configured(partitioning.PjitPartitioner)(
    num_partitions=num_partitions
  )
  initializer = tiny.make_initializer(model, partitioner)
  state, _ = initializer.from_base_model(
    configured(utils.RestoreCheckpointConfig)(),
    # As t5x.train does.
    jax.random.split(jax.random.key(seed))[0],
  )
  return model, partitioner, initializer, state
