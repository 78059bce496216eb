"""The commands in README.md and docs/, split as a shell would do it."""

from collections.abc import Iterator
import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).parents[1]


PAGES = (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))


def commands(*pages: pathlib.Path) -> Iterator[list[str]]:
  """Yields the words of each command in the fenced `sh` blocks."""
  for page in pages:
    for block in re.findall(
      r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S
    ):
      for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
          yield words[words[0] == "exec" :]
