"""Facts about this package that the trainer asks for."""

from collections.abc import Callable
import os
import pkgutil
from typing import Any

from prompt_tuning import project_files
from prompt_tuning.data import task_names
from t5x.configuration.client import Client

_MODEL = "--gin_file=gin/models/t5_small_local.gin"
_TASK = "--gin.TASK=\"'mini_cb'\""
_PROMPT_FILE = "--gin.PROMPT_FILE=\"'runs/cb/prompt.safetensors'\""


def _lazy(name: str) -> Callable[..., Any]:
  """Returns a function of this package that is imported on its first call.

  Its module imports TensorFlow, or takes a while, and --help does without.

  Args:
    name: Such as "data.task_lookup:find".
  """
  return lambda *args: pkgutil.resolve_name(f"prompt_tuning.{name}")(*args)


def _open_model(path: str) -> Any:
  from prompt_tuning.interop import hub

  path = os.fspath(path)
  is_folder = os.path.isfile(os.path.join(path, "config.json"))
  if not (is_folder or hub.is_name(path)):
    return None
  # It imports JAX.
  from prompt_tuning.interop import hugging_face

  return hugging_face.open_folder(path)


CLIENT = Client(
  gin_path=project_files.gin_search_path(),
  gin_kinds=(
    "models",
    "recipes",
    "methods",
    "prompts",
    "optimizers",
    "tasks",
    "decoding",
    "runs",
  ),
  examples={
    "train": (
      _MODEL,
      "--gin_file=gin/recipes/prompt_tuning.gin",
      _TASK,
      "--gin.TRAIN_STEPS_RELATIVE=300",
      "--gin.MODEL_DIR=\"'runs/cb'\"",
    ),
    "eval": (
      _MODEL,
      "--gin_file=gin/recipes/evaluate_prompt.gin",
      _TASK,
      _PROMPT_FILE,
      "--gin.EVAL_OUTPUT_DIR=\"'runs/cb-eval'\"",
    ),
    "infer": (
      _MODEL,
      "--gin_file=gin/methods/prompt_tuning.gin",
      "--gin_file=gin/prompts/from_file.gin",
      "--gin_file=gin/runs/infer.gin",
      _TASK,
      _PROMPT_FILE,
      "--gin.SPLIT=\"'validation'\"",
      "--gin.INFER_OUTPUT_DIR=\"'runs/cb-infer'\"",
    ),
  },
  task_names=task_names.by_heading,
  find_task=_lazy("data.task_lookup:find"),
  open_model=_open_model,
  next_steps=_lazy("training.next_steps:describe"),
  problems=_lazy("training.headers:problems"),
  folders=("*.folder.path",),
  resumable_settings=tuple(
    f"*{config}.{name}"
    for config in ("T5Config", "decoder_config")
    for name in ("remat", "remat_keeps", "scan_layers", "attention_kernel")
  ),
  base_model_paths=(
    "*.checkpoint.path",
    "*.token_embedding.path",
    "*.decoder_config.path",
    "*.hugging_face.vocabulary.path",
    "*SaveBestPrompt.base_model",
  ),
  evaluation_settings=("*SaveBestPrompt.metric",),
  unmeasured_settings=(
    "*.assignment_map",
    "*.fallback_to_scratch",
    "*.additional_rules",
    "*.injections",
    "*has_initialised.*",
    "*SaveBestPrompt.base_model",
  ),
  stand_ins="gin/plan.gin",
  percentages=(
    "accuracy",
    "em",
    "exact_match",
    "f1",
    "glue_average",
    "invalid",
    "mean_3class_f1",
    "super_glue_average",
  ),
)
