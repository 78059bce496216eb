"""The page at `/`: its files, and what it asks beyond OpenAI's interface."""

import asyncio
from collections.abc import Sequence
import dataclasses
from importlib import resources
import mimetypes
from typing import Any

import fastapi
import numpy as np

from prompt_tuning.inference import neighbours as analysis
from prompt_tuning.inference.requests import Prompt
from prompt_tuning.serving import errors
from prompt_tuning.serving.errors import ApiError
from prompt_tuning.serving.service import Service

# The page loads nothing but its own files, runs no script but those, and is
# shown in no other page.
HEADERS = {
  "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
  "style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
  "form-action 'none'; frame-ancestors 'none'",
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  # After an update, a browser takes no old script with a new page.
  "Cache-Control": "no-cache",
}
_INDEX = "index.html"


@dataclasses.dataclass(frozen=True)
class Example:
  """An input that the page offers.

  Attributes:
    model: The prompt that it is for.
    input: A text.
  """

  model: str
  input: str


def router(
  service: Service, examples: Sequence[Example] = (), tunes: bool = False
) -> fastapi.APIRouter:
  """Returns the routes.

  Args:
    service: What is shown.
    examples: What the page offers as inputs.
    tunes: Whether the server has jobs.
  """
  routes = fastapi.APIRouter()
  files = _files()
  # One at a time: each has a copy of the embeddings, in float32.
  analysing = asyncio.Lock()

  def file(name: str) -> fastapi.Response:
    kind = mimetypes.guess_type(name)[0]
    return fastapi.Response(files[name], media_type=kind, headers=HEADERS)

  @routes.get("/")
  def index():
    return file(_INDEX)

  @routes.get("/static/{name}")
  def static(name: str):
    if name not in files:
      raise ApiError(404, "The page has no such file.", "not_found")
    return file(name)

  @routes.get("/v1/page")
  def offered():
    """What the page offers."""
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
    """The words of the vocabulary that are nearest to a prompt."""
    prompt = await service.prompt(name)
    if prompt is None:
      raise errors.invalid("The model alone has no prompt.", "model")
    async with analysing:
      return await asyncio.to_thread(_words, service, prompt, count)

  return routes


def _files() -> dict[str, bytes]:
  """Reads the page's files; they are small."""
  folder = resources.files("prompt_tuning.serving") / "static"
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def _embeddings(service: Service) -> np.ndarray:
  """Returns the embeddings of the vocabulary, [V, H] float32."""
  params = service.engine.model.params
  return np.asarray(params["token_embedder"]["embedding"], np.float32)


def _words(service: Service, prompt: Prompt, count: int) -> dict[str, Any]:
  return _described(
    analysis.analyse(
      prompt.array,
      _embeddings(service),
      service.engine.model.vocabulary,
      num_neighbours=count,
    )
  )


def _described(result: analysis.Analysis) -> dict[str, Any]:
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
