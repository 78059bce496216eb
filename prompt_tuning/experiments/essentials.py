"""What of a run's configuration makes its numbers, whichever way it is wired.

The gin files are rewired now and then: what was written out follows from the
method. Records keep the settings of their day. To be compared, they and today's
are brought into one form, without what changes no number. Whoever rewires
without changing one adds a line here; otherwise `tabulate.py --check` lists the
records, and they are to be run again.
"""

import fnmatch
import re

from t5x.configuration.run_configuration import RunConfiguration

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
_IGNORED = re.compile("|".join(map(fnmatch.translate, _LEFT_OUT)))


def of(configuration: RunConfiguration) -> RunConfiguration:
  """Brings a configuration into the form in which two are compared."""
  return RunConfiguration(
    configuration.program,
    {
      name: value
      for name, value in configuration.settings.items()
      if not _IGNORED.match(name)
    },
    configuration.code,
    configuration.macros,
  )
