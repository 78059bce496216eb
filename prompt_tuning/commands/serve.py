"""Serve a frozen T5 with many prompts, through an API like OpenAI's.

prompt-tuning serve --demo
prompt-tuning serve --checkpoint=checkpoints/t5_small --prompts=prompts
"""

import argparse
from typing import Any

from prompt_tuning.commands import options

# Defaults that --demo replaces.
_DEFAULTS = {
  "prompts": "prompts",
  "jobs": "jobs",
  "rows": 16,
  "lengths": [64, 128, 256, 512],
  "max_tokens": 128,
  "labels": [16, 64],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the command."""
  add = parser.add_argument
  add("--checkpoint", metavar="PATH", help="the base model")
  add(
    "--demo",
    action="store_true",
    help="serve a miniature with prompts for its tasks, to look around",
  )
  add(
    "--vocabulary",
    metavar="FILE",
    help="SentencePiece model; by default the one beside the checkpoint",
  )
  add("--name", help="name of the model without a prompt; by default its own")
  add("--dtype", default="float32", help="of activations: float32 or bfloat16")
  add(
    "--prompts",
    metavar="FOLDER",
    help=_about("prompts", "folder of NAME.safetensors"),
  )
  add(
    "--jobs",
    metavar="FOLDER",
    help=_about("jobs", "folder of tuning jobs; '' for no jobs"),
  )
  options.add_cluster(parser, "run jobs on a cluster: slurm, through submitit")
  add(
    "--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all"
  )
  add("--port", type=int, default=8000, help="port to listen at")
  add(
    "--keys",
    metavar="FILE",
    help="API keys, one a line; by default no key is needed",
  )
  _add_limits(parser.add_argument_group("limits"))
  _add_batches(
    parser.add_argument_group(
      "batches",
      "A program is compiled at the start for each combination of these sizes.",
    )
  )


def _about(name: str, text: str) -> str:
  """Adds a default to a help text; `complete` sets it, after --demo's."""
  value = _DEFAULTS[name]
  shown = ",".join(map(str, value)) if isinstance(value, list) else value
  return f"{text} (default: {shown})"


def _add_limits(group: Any) -> None:
  add = group.add_argument
  add(
    "--requests_per_minute",
    type=options.count,
    default=0,
    help="requests of a key; 0 for any number",
  )
  add(
    "--body_bytes",
    type=options.positive,
    default=2**20,
    help="size of a request",
  )
  add(
    "--upload_bytes",
    type=options.positive,
    default=2**26,
    help="size of an uploaded file",
  )
  add(
    "--answer_seconds",
    type=options.positive,
    default=120,
    help="time for an answer",
  )
  add(
    "--forwarded_allow_ips",
    default="",
    metavar="ADDRESS,...",
    help="proxies whose X-Forwarded-For names the client",
  )
  add(
    "--queue", type=options.positive, default=256, help="inputs that may wait"
  )


def _add_batches(group: Any) -> None:
  add = group.add_argument
  add("--rows", type=options.positive, help=_about("rows", "inputs of a batch"))
  add(
    "--lengths",
    type=options.positives,
    metavar="TOKENS,...",
    help=_about("lengths", "tokens of an input with its prompt"),
  )
  add(
    "--max_tokens",
    type=options.positive,
    help=_about("max_tokens", "tokens of an answer"),
  )
  add(
    "--labels",
    type=options.positives,
    metavar="TOKENS,...",
    help=_about("labels", "tokens of all labels of a ranking"),
  )
  add(
    "--beams",
    type=options.count,
    default=0,
    help="width of a beam search; 0 for none",
  )
  add(
    "--slots",
    type=options.positive,
    default=64,
    help="prompts in the device's memory",
  )
  add(
    "--longest_prompt",
    type=options.positive,
    metavar="POSITIONS",
    help="longest prompt; by default 128, or the room that --lengths leave",
  )
  add(
    "--patience",
    type=options.seconds,
    default=0.003,
    help="seconds to wait for a batch to fill",
  )


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  from prompt_tuning.serving import server

  server.serve(complete(args))


def complete(args: argparse.Namespace) -> argparse.Namespace:
  """Checks the flags, and sets those that were not given.

  Args:
    args: The parsed flags, which are changed.

  Returns:
    `args`.

  Raises:
    ValueError: if flags contradict each other, or the demo's files are missing.
  """
  defaults: dict[str, Any] = _DEFAULTS
  if args.demo:
    from prompt_tuning.serving import demo

    defaults = {**_DEFAULTS, **demo.defaults()}
  for name, value in defaults.items():
    if getattr(args, name) is None:
      setattr(args, name, value)
  if args.checkpoint is None:
    raise ValueError("--checkpoint is required, or --demo.")
  if args.option and not args.submit:
    raise ValueError("--option is for --submit.")
  if args.submit and not args.jobs:
    raise ValueError("--submit is for --jobs, and there are none.")

  from prompt_tuning.training import cluster_options

  cluster_options.read(args.option)
  if args.submit:
    cluster_options.check_submitit()
  return args
