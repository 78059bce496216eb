"""What of a run's configuration makes its numbers, whichever way it is wired.

The gin files are rewired now and then: what was written out follows from the
method, a folder gets an absolute path. Records keep the settings of their day.
To be compared, they and today's are brought into one form, without what changes
no number. Whoever rewires without changing one adds a line here; otherwise
`tabulate.py --check` lists the records, and they are to be run again.
"""

from collections.abc import Mapping
import fnmatch
import re

from t5x.run_configuration import RunConfiguration

# Of no consequence to a score, or following from what the method injects.
_LEFT_OUT = (
  "*.assignment_map",
  "*.fallback_to_scratch",
  "*.additional_rules",
  "*.injections",
  "*has_initialised.*",
  "*.logger_cls",
  "*JSONLogger.*",
  "*.concurrent_metrics",
  "*.summarize_config_fn",
  "*.inference_evaluator_cls",
  "*RestoreCheckpointConfig.mode",
)
_PASSING = (
  "*checkpoint.path",
  "*folder.path",
  "*most_frequent.*",
  "*singleton.*",
)
_IGNORED = re.compile(
  "|".join(fnmatch.translate(x) for x in (*_LEFT_OUT, *_PASSING))
)
# A function that only passes on its parameter: the name of both.
_PASSED_ON = {
  "@prompt_tuning.checkpoint()": "prompt_tuning.checkpoint.path",
  "@prompt_tuning.folder()": "prompt_tuning.folder.path",
  "@prompt_tuning.most_frequent()": "prompt_tuning.most_frequent.at_most",
  # Made once, for every module that asks for it.
  "@prompt/gin.singleton()": "prompt/gin.singleton.constructor",
}
# A prompt's arrays were read while its module ran, and are now before it.
_FACTORIES = {
  "prompt_tuning.prompt_factory": "prompt_tuning.Prompt",
  "prompt_tuning.prompts_factory": "prompt_tuning.Prompts",
  "prompt_tuning.token_embedding()": "prompt_tuning.token_embedding",
}
_MULTITASK = "prompt_tuning.prompt_factory.prefixes"
# Where a method's parameters may go, which once had one name for all methods.
_TARGETS = re.compile(
  r"(prompt_tuning\.Injections\.)(?:delta|adapter|rescale|prefix)_targets"
)
# What trained was written out where it now follows from the method.
_TRAINABLE = "prompt_tuning.matches_any.patterns"
_BY_METHOD = {
  "@prompt_tuning.parameter_patterns()",
  *(
    f"['{pattern}/.*']"
    for pattern in (".*/adapter", ".*/delta", ".*_prefix", ".*rescale")
  ),
  "['.*/prompt/.*']",
}
# A base model of the repository is the one checkpoint in its folder.
_CHECKPOINT = re.compile(r"^('checkpoints/.*)/checkpoint_\d+'$")


def of(configuration: RunConfiguration) -> RunConfiguration:
  """Brings a configuration into the form in which two are compared."""
  settings = {}
  made_by = dict(_FACTORIES)
  if _MULTITASK in configuration.settings:
    made_by["prompt_tuning.prompt_factory"] = "prompt_tuning.MultitaskPrompt"
  for name, value in configuration.settings.items():
    if _IGNORED.match(name) or (name == _TRAINABLE and value in _BY_METHOD):
      continue
    function, _, parameter = name.rpartition(".")
    if function:  # Not a macro of a program that gin does not bind.
      name = f"{made_by.get(function, function)}.{parameter}"
    value = _passed_on(value, configuration.settings)
    if value.startswith("@"):
      value = f"@{made_by.get(value[1:], value[1:])}"
    settings[_TARGETS.sub(r"\1where", name)] = _CHECKPOINT.sub(r"\1'", value)
  return RunConfiguration(
    configuration.program,
    settings,
    configuration.code,
    configuration.macros,
  )


def _passed_on(value: str, settings: Mapping[str, str]) -> str:
  return settings.get(_PASSED_ON.get(value, ""), value)
