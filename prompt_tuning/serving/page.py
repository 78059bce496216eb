"""The page at `/`: its files, and the requests that only it makes."""

import asyncio
from collections.abc import Sequence
import dataclasses
from importlib import resources
import mimetypes
from typing import Any

import fastapi
import numpy as np

from prompt_tuning.inference import neighbours
from prompt_tuning.inference.requests import TunedPrompt
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.service import Service

# The page loads and runs only its own files, and no other page can embed it.
HEADERS = {
  "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
  "style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  # After an update, a browser must not run an old script in a new page.
  "Cache-Control": "no-cache",
}


@dataclasses.dataclass(frozen=True)
class Example:
  """An input that the page offers.

  Attributes:
    model: The name of the prompt to answer it with.
    input: A text.
  """

  model: str
  input: str


def router(
  service: Service, examples: Sequence[Example] = (), tunes: bool = False
) -> fastapi.APIRouter:
  """Returns the routes.

  Args:
    service: The model and the prompts.
    examples: Inputs that the page offers.
    tunes: Whether the server tunes prompts.
  """
  routes = fastapi.APIRouter()
  folder = resources.files("prompt_tuning.serving") / "static"
  files = {path.name: path.read_bytes() for path in folder.iterdir()}
  # One analysis at a time: each copies the embeddings, in float32.
  analysing = asyncio.Lock()

  @routes.get("/")
  def index():
    return static("index.html")

  @routes.get("/static/{name}")
  def static(name: str):
    if name not in files:
      raise ApiError(404, "The page has no such file.", "not_found")
    kind = mimetypes.guess_type(name)[0]
    return fastapi.Response(files[name], media_type=kind, headers=HEADERS)

  @routes.get("/v1/page")
  def offer():
    """Returns the settings of the page."""
    settings = service.engine.settings
    return {
      "object": "page",
      "examples": list(map(dataclasses.asdict, examples)),
      "max_tokens": max(settings.shapes.steps),
      "longest_prompt": settings.longest_prompt,
      "tunes": tunes,
    }

  @routes.get("/v1/prompts/{name}/words")
  async def words(name: str, count: int = fastapi.Query(5, ge=1, le=50)):
    """Returns the words of the vocabulary that are nearest to a prompt."""
    prompt = await service.prompt_alone(name)
    async with analysing:
      return await asyncio.to_thread(_words, service, prompt, count)

  return routes


def _words(service: Service, prompt: TunedPrompt, count: int) -> dict[str, Any]:
  model = service.engine.model
  embeddings = model.params["token_embedder"]["embedding"]
  result = neighbours.analyse(
    prompt.array,
    np.asarray(embeddings, np.float32),
    model.vocabulary,
    num_neighbours=count,
  )
  return {
    "object": "prompt.words",
    "embedding_norm": result.embedding_norm,
    "positions": [
      {
        "norm": position.norm,
        "words": [
          {"word": word, "cosine": cosine}
          for word, cosine in zip(
            position.neighbours, position.cosines, strict=True
          )
        ],
      }
      for position in result.positions
    ],
  }
