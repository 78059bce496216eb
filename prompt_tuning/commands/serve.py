"""Serve a frozen T5 with many prompts, through an API like OpenAI's.

prompt-tuning serve --demo
prompt-tuning serve runs/tune/flan-t5-base-reviews
prompt-tuning serve --checkpoint=checkpoints/t5_small --prompts=prompts

A variable such as PROMPT_TUNING_PORT=80 of the environment is a flag's default.
"""

import argparse
from collections.abc import Sequence
import os
import pathlib

from prompt_tuning.commands import options

# Name, type, default and meaning of flags that are numbers.
_LIMITS = (
  ("requests_per_minute", options.count, 0, "requests of a key; 0 for any"),
  ("quota_bytes", options.count, 0, "stored bytes of a key; 0 for any"),
  ("quota_files", options.count, 0, "files and prompts of a key; 0 for any"),
  ("quota_jobs", options.count, 0, "open jobs of a key; 0 for any"),
  ("body_bytes", options.positive, 2**20, "size of a request"),
  ("upload_bytes", options.positive, 2**26, "size of an uploaded file"),
  ("answer_seconds", options.positive, 120, "time for an answer"),
  ("queue", options.positive, 256, "inputs that may wait"),
)
_BATCHES = (
  ("rows", options.positive, 16, "inputs of a batch"),
  (
    "lengths",
    options.positives,
    "64,128,256,512",
    "tokens of an input with its prompt",
  ),
  ("max_tokens", options.positive, 128, "tokens of an answer"),
  ("labels", options.positives, "16,64", "tokens of all labels of a ranking"),
  ("beams", options.count, 0, "width of a beam search; 0 for none"),
  ("slots", options.positive, 64, "prompts in the device's memory"),
  ("patience", options.seconds, 0.003, "seconds to wait for a full batch"),
  (
    "longest_prompt",
    options.positive,
    None,
    "positions; by default 128, or the room that --lengths leave",
  ),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  prompts = (
    "prompts to copy to the folder of prompts; their files name the model"
  )
  add("files", nargs="*", metavar="PROMPT", help=prompts)
  add("--checkpoint", metavar="PATH", help="the base model")
  demo = "serve a miniature with prompts for its tasks, to look around"
  add("--demo", action="store_true", help=demo)
  vocabulary = "SentencePiece model; by default the one beside the checkpoint"
  add("--vocabulary", metavar="FILE", help=vocabulary)
  add("--name", help="name of the model without a prompt; by default its own")
  add("--dtype", default="float32", help="of activations: float32 or bfloat16")
  prompts = "folder of NAME.safetensors"
  add("--prompts", type=options.folder, default="prompts", help=prompts)
  jobs = "folder of tuning jobs; '' for no jobs"
  add("--jobs", type=options.folder, default="jobs", help=jobs)
  options.add_cluster(parser, "run jobs on a cluster: slurm, through submitit")
  add("--host", default="127.0.0.1", help="address; 0.0.0.0 for all of them")
  add("--port", type=int, default=8000, help="port; 0 for a free one")
  keys = "lines of an API key and its tenant's name; by default none"
  add("--keys", metavar="FILE", help=keys)
  open_to_all = "let anyone in who reaches --host, without a key"
  add("--without_keys", action="store_true", help=open_to_all)
  names = "more names that the server answers to, as A,B,..."
  add("--hosts", type=options.words, default=[], metavar="NAMES", help=names)
  log = "a line of JSON for each request; - for standard output, '' for none"
  add("--access_log", metavar="FILE", default="-", help=log)
  proxies = "proxies whose X-Forwarded-For names the client, as A,B,..."
  add("--forwarded_allow_ips", default="", help=proxies)
  limits = parser.add_argument_group("limits")
  about = (
    "A program is compiled at the start for each combination of the sizes."
  )
  batches = parser.add_argument_group("batches", about)
  for group, flags in ((limits, _LIMITS), (batches, _BATCHES)):
    for name, kind, default, about in flags:
      group.add_argument(
        f"--{name}", type=kind, default=default, metavar="N", help=about
      )
  for name in vars(parser.parse_args([])).keys() - {"files", "option"}:
    if value := os.environ.get(f"PROMPT_TUNING_{name.upper()}"):
      parser.set_defaults(**{name: value})  # argparse converts texts.


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.serving import server

  server.serve(complete(args))


def _collect(given: Sequence[str], folder: str, checkpoint: str | None) -> str:
  """Copies prompts to the folder that is served.

  Args:
    given: Files or folders of prompts of one model. A `prompt.safetensors` gets
      the name of its folder.
    folder: The folder of prompts.
    checkpoint: The model; by default the one that they name.

  Returns:
    The model.

  Raises:
    ValueError: if they name none or several, or another prompt has a name.
  """
  from prompt_tuning import prompt_files
  from prompt_tuning.interop import prompt_conversion

  target = pathlib.Path(folder)
  models, copies = {}, {}
  for path in given:
    prompt, metadata = prompt_conversion.read_prompt(path)
    if metadata is not None:
      models[metadata.base_fingerprint] = metadata.base_model
    absolute = pathlib.Path(path).absolute()
    name = absolute.parent.name if absolute.stem == "prompt" else absolute.stem
    copies[target / f"{name}.safetensors"] = prompt, metadata
  if len(models) > 1:
    raise ValueError(f"Expected prompts of one model, got {len(models)}.")
  checkpoint = checkpoint or next(iter(models.values()), None)
  if checkpoint is None:
    raise ValueError(
      f"{', '.join(given)}: the model is not named. Give it: --checkpoint=PATH."
    )
  target.mkdir(parents=True, exist_ok=True)
  for path, (prompt, metadata) in copies.items():
    if path.exists() and (
      prompt_files.load_prompt(path)[0].tobytes() != prompt.tobytes()
    ):
      raise ValueError(
        f"{path} is another prompt: remove it, or give another --prompts=DIR."
      )
    prompt_files.save_prompt(path, prompt, metadata)
  return checkpoint


def complete(args: argparse.Namespace) -> argparse.Namespace:
  """Checks the flags, and returns them with the defaults of --demo.

  Raises:
    ValueError: if flags contradict each other, or the demo's files are missing.
  """
  if args.demo:
    from prompt_tuning.serving import demo

    args.parser.set_defaults(**demo.defaults())
    args = args.parser.parse_args(args.words)
  elif args.files:
    args.checkpoint = _collect(args.files, args.prompts, args.checkpoint)
  elif args.checkpoint is None:
    raise ValueError("Name a prompt, or give --checkpoint, or --demo.")
  if args.option and not args.submit:
    raise ValueError("--option is for --submit.")
  if args.submit and not args.jobs:
    raise ValueError("--submit is for --jobs, and --jobs is empty.")

  from prompt_tuning.training import cluster_options

  cluster_options.read(args.option)
  if args.submit:
    cluster_options.check_submitit(args.submit)
  return args
