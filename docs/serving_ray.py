"""Replicas of the server by Ray Serve: see docs/deploying.md.

  serve run docs.serving_ray:replicas replicas=2 \\
    checkpoint=checkpoints/t5_small prompts=/shared/prompts

Each has the model in memory; all read one folder of prompts.
"""

import t5x  # noqa: F401  # Before what imports TensorFlow, to keep that quiet.

# isort: split

from ray import serve

from prompt_tuning.commands import console
from prompt_tuning.commands import serve as command
from prompt_tuning.serving import app, server


def replicas(options: dict[str, str]) -> serve.Application:
  """Returns the application of `serve run`.

  Args:
    options: "replicas", their number; the others are the server's flags. The
      replicas have no jobs: another server tunes.
  """
  number = int(options.pop("replicas", "1"))
  # Ray listens, under whatever name.
  words = ["serve", "--jobs=", "--host=0.0.0.0"]
  words += [f"--{name}={value}" for name, value in options.items()]
  words += [] if "keys" in options else ["--without_keys"]

  def application():
    flags = command.complete(console.parse(words))
    return app.make(server.make_service(flags))

  deployment = serve.deployment(serve.ingress(application)())
  return deployment.options(
    num_replicas=number, max_ongoing_requests=256
  ).bind()
