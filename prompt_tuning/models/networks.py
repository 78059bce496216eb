"""The network of a configuration."""

from prompt_tuning.injections import Injections
from prompt_tuning.models.decoder import network as decoder
from prompt_tuning.models.layers import Config
from prompt_tuning.models.network import Network
from prompt_tuning.models.t5 import network as t5
from prompt_tuning.models.t5.config import T5Config
from prompt_tuning.models.t5gemma import network as t5gemma
from prompt_tuning.models.t5gemma.config import T5GemmaConfig


def make(config: Config, injections: Injections | None = None) -> Network:
  """Makes the network, with the modules of some methods.

  Args:
    config: Its sizes and settings.
    injections: The methods, or None.
  """
  injections = injections or Injections()
  if isinstance(config, T5Config):
    return t5.Transformer(config, injections)
  if isinstance(config, T5GemmaConfig):
    return t5gemma.Transformer(config, injections)
  return decoder.Transformer(config, injections)
