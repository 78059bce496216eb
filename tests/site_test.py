"""A test of the documentation's site."""

import shutil

import documented
import pytest
import started


@pytest.mark.slow
def test_site_is_built_without_warnings(tmp_path):
  """Builds a copy, because the build writes pages beside the others."""
  for path in documented.ROOT.glob("*.md"):
    shutil.copy(path, tmp_path)
  for name in ("docs", "gin", "prompt_tuning", "results", "runtime"):
    shutil.copytree(documented.ROOT / name, tmp_path / name)
  words = ("-m", "sphinx", "-q", "-W", "--keep-going")
  started.python(*words, "-c", "docs", ".", "site", cwd=tmp_path)
  site = tmp_path / "site"
  for page, text in (
    ("docs/index", "Tutorials"),
    ("docs/tuning_in_python", "highlight-python"),
    ("reference/gin", "gin/models/t5_1_1.gin"),
    ("reference/prompt_tuning/prompts/index", "prepend_prompt"),
  ):
    html = (site / f"{page}.html").read_text()
    assert text in html
    assert 'src="http' not in html  # Nothing is loaded from elsewhere.
