"""A stand-in for Google's T5X: its names and parameters without its code.

As a program, it parses every gin file with this instead of `runtime/`,
configures T5X's programs for every recipe and way to decode, then takes those
steps of the three programs that need no model:

  python tests/google_t5x/stand_in.py FOLDER BINDINGS GIN_FILE...
"""

import importlib.util  # noqa: F401  gin reads it from `importlib`, which lacks it.
import json
import pathlib
import sys
import types

ROOT = pathlib.Path(__file__).parents[2]
SIGNATURES = json.loads(
  (ROOT / "tests" / "testdata" / "t5x_signatures.json").read_text()
)


def _define(name: str, parameters: list[str], *positional: str, body: str):
  """Returns the text of a function; `x=` is a parameter with a default."""
  words = [p + "None" if p.endswith("=") else p for p in parameters]
  named = [word for word in words if not word.startswith("*")]
  arguments = [*positional, *(["*", *named] if named else [])]
  return f"def {name}({', '.join(arguments)}): {body}\n"


def write_package(folder: pathlib.Path) -> None:
  """Writes a package `t5x` whose functions return their arguments."""
  (folder / "t5x").mkdir()
  sources = {"__init__": ""}
  for path, symbol in SIGNATURES.items():
    module, name = path.split(".")
    parameters = symbol["parameters"]
    source = _define(name, parameters, body="return locals()")
    if "bases" in symbol:
      bases = [x for x in symbol["bases"] if f"{module}.{x}" in SIGNATURES]
      body = "vars(self).update(locals())"
      methods = [
        _define("__init__", parameters, "self", body=body),
        *(
          _define(method, its, "self", body="return None")
          for method, its in symbol.get("methods", {}).items()
        ),
      ]
      source = f"class {name}({', '.join(bases)}):\n"
      source += "".join(f"  {method}" for method in methods)
    sources[module] = sources.get(module, "") + source
  for module, source in sources.items():
    (folder / "t5x" / f"{module}.py").write_text(source)


def main(folder: str, bindings: str, *gin_files: str) -> None:
  sys.path[:0] = [folder, str(ROOT)]
  import gin
  import jax.numpy as jnp
  import numpy as np

  from t5x import checkpoints
  from t5x import eval as eval_lib
  from t5x import infer as infer_lib
  from t5x import train as train_lib

  # T5X's programs have these as globals.
  globals().update(
    train=train_lib.train, evaluate=eval_lib.evaluate, infer=infer_lib.infer
  )
  # Prompts of class labels read this.
  embedding = types.SimpleNamespace(get=lambda: np.zeros((5000, 512)))
  checkpoints.load_t5x_checkpoint = lambda path, lazy_parameters: {
    "target": {"token_embedder": {"embedding": embedding}}
  }
  gin.add_config_file_search_path(str(ROOT))
  # Google's T5X has no batches by length, no teachers and no int8, and it has
  # other networks for decoders.
  ours = ["runs/by_length", "*/mpt_sources"]
  models = ("decoder", "smollm2_135m", "llama_3_8b", "t5gemma*", "int8")
  ours += [f"models/{name}" for name in models]
  excluded = {file for x in ours for file in ROOT.glob(f"gin/{x}.gin")}
  for file in sorted({*ROOT.glob("gin/**/*.gin")} - excluded):
    gin.clear_config()
    gin.parse_config_file(str(file))

  def configure(entry: str, *files: str):
    gin.clear_config()
    gin.parse_config_files_and_bindings(files, json.loads(bindings))
    return gin.get_configurable(globals()[entry])()

  model = gin_files[0]
  for recipe in sorted({*ROOT.glob("gin/recipes/*.gin")} - excluded):
    entry = "evaluate" if recipe.stem == "evaluate_prompt" else "train"
    assert configure(entry, model, str(recipe))["model"]
  for decoding in sorted(ROOT.glob("gin/decoding/*.gin")):
    files = (*gin_files, str(decoding), "gin/runs/infer.gin")
    assert configure("infer", *files)["model"].decode_fn is not None
  for entry, run in (("infer", "infer"), ("evaluate", "eval"), ("train",) * 2):
    configured = configure(entry, *gin_files, f"gin/runs/{run}.gin")
    print(entry, *sorted(k for k, v in configured.items() if v is not None))
  # T5X's `train` makes these of its arguments; then the actions run once.
  given = {"train_state": None, "partitioner": configured["partitioner"]}
  configured["trainer_cls"](
    **given,
    model=configured["model"],
    eval_names=[],
    summary_dir="",
    train_state_axes=None,
    rng=None,
  )
  configured["checkpoint_cfg"].save.checkpointer_cls(
    **given, checkpoints_dir="", dataset_iterator=None
  )
  assert not configured["concurrent_metrics"]  # With it, T5X runs no actions.
  train_state = types.SimpleNamespace(
    params={"encoder": {"prompt": {"prompt": jnp.ones((2, 4))}}}, step=7
  )
  for action in configured["actions"]["INFER_EVAL"]:
    action.run(train_state, {"task": {"accuracy": 50.0}})


if __name__ == "__main__":
  main(*sys.argv[1:])
