"""Settings of the site, which Sphinx builds of the repository's own pages.

sphinx-build -W -c docs . site
"""

import json
import pathlib
import re
import shutil

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from pygments.lexers.python import PythonLexer
from sphinx.application import Sphinx

_ROOT = pathlib.Path(__file__).parents[1]
_REFERENCE = _ROOT / "reference"  # Made by a build, and deleted after it.

project = "prompt_tuning"
root_doc = "docs/index"
include_patterns = [
  *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
  *("docs/*.md", "docs/*.ipynb", "results/*.md", "results/tables/*.md"),
  "reference/**",
]
extensions = [
  "autoapi.extension",
  "myst_parser",
  "sphinx.ext.napoleon",
]
html_theme = "furo"
html_title = "prompt_tuning"
default_role = "code"  # Docstrings have Markdown's backticks.
napoleon_use_ivar = True
myst_heading_anchors = 4

# The code is read, and not imported. `docs/commands.md` has the commands.
autoapi_dirs = [str(_ROOT / "prompt_tuning"), str(_ROOT / "runtime" / "t5x")]
autoapi_ignore = ["*/commands/*"]
autoapi_root = "reference"
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_add_toctree_entry = False
autoapi_member_order = "bysource"
suppress_warnings = [
  "autoapi.python_import_resolution",
  "ref.python",  # The name `type` is also that of several fields.
]


def _gin_page() -> str:
  """Returns the page of the gin files: the comment at the head of each."""
  lines = ["# Gin files", ""]
  for path in sorted(_ROOT.glob("gin/**/*.gin")):
    head = re.match(r"(?:#.*\n)*", path.read_text())
    about = re.sub("(?m)^# ?", "", head[0] if head else "")
    about = re.sub("(?m)^(Provides|Requires|Uses):", r"* **\1:**", about)
    lines += [f"## `{path.relative_to(_ROOT)}`", "", about]
  return "\n".join(lines)


class NotebookParser(MystParser):
  """A parser of notebooks, whose cells and outputs become Markdown."""

  supported = ("notebook",)

  def parse(self, inputstring: str, document: nodes.document) -> None:
    """Parses a notebook into a document."""
    blocks = []
    for cell in json.loads(inputstring)["cells"]:
      text = "".join(cell["source"])
      is_code = cell["cell_type"] == "code"
      blocks.append(f"```python\n{text}\n```" if is_code else text)
      for output in cell.get("outputs", ()):
        data = output.get("data", {"text/plain": output.get("text", "")})
        if image := data.get("image/png"):
          blocks.append(f"![A figure](data:image/png;base64,{image.strip()})")
        else:
          shown = "".join(data["text/plain"])
          blocks.append(f"```text\n{shown}\n```")
    super().parse("\n\n".join(blocks), document)


def setup(app: Sphinx) -> None:
  """Adds notebooks, the page of the gin files, and how to colour them."""
  app.add_source_suffix(".ipynb", "notebook")
  app.add_source_parser(NotebookParser)
  app.add_lexer("gin", PythonLexer)
  _REFERENCE.mkdir(exist_ok=True)
  (_REFERENCE / "gin.md").write_text(_gin_page())
  app.connect("build-finished", lambda *_: shutil.rmtree(_REFERENCE, True))
