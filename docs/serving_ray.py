"""Replicas of the server by Ray Serve: see docs/serving.md.

  serve run docs.serving_ray:replicas replicas=2 \\
    checkpoint=checkpoints/t5_small prompts=/shared/prompts

Each has the model in memory; all read one folder of prompts.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

from ray import serve

from prompt_tuning.commands import serve as command


def replicas(options: dict[str, str]) -> serve.Application:
  """Returns what `serve run` runs.

  Args:
    options: "replicas", how many; the others are those of the server. What
      tunes is a server of its own: the replicas have no jobs.
  """
  number = int(options.pop("replicas", "1"))
  words = [f"--{name}={value}" for name, value in options.items()]

  def application():
    # Ray listens, under whatever name.
    args = command.parse([*words, "--jobs=", "--host=0.0.0.0"])
    return command.make_application(args, command.make_service(args))

  deployment = serve.deployment(serve.ingress(application)())
  return deployment.options(
    num_replicas=number, max_ongoing_requests=256
  ).bind()
