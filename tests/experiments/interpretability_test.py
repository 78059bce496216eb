"""Tests of the words near prompts, with prompts made of known embeddings."""

from documented import ROOT
import made_up
import numpy as np
import pytest

from prompt_tuning import prompt_files, tasks
from prompt_tuning.experiments import interpretability, sheets
from prompt_tuning.experiments.results import Results
from prompt_tuning.training import base_model

BASE = "checkpoints/ladder_xs/lm_100"
SHEET = (
  made_up.SHEET.split("[paper]")[0]
  .replace('size = ["s", "l"]', 'size = ["s"]')
  .replace('"cb", "wic"', '"ladder_boolq"')
  .replace("[values.task.cb]\n[values.task.wic]", "[values.task.ladder_boolq]")
  .replace('method = ["prompt", "model"]', 'init = ["class_labels", "random"]')
  .replace('METHOD = "$method"', 'INIT = "$init"')
  .replace('rows = ["method"]', 'rows = ["init"]')
  .replace('"Prompt_tuning"\n', '"Prompt_tuning"\n[values.init.class_labels]\n')
  .replace("[values.init", "[values.init.random]\n[values.init", 1)
)
PAGE = sheets.parse(
  ROOT / "configs/interpretability.toml", interpretability.Page
).model_copy(update={"sheet": "x", "neighbours": 2, "size": "s"})


@pytest.fixture(scope="module")
def embeddings():
  return base_model.token_embedding(str(ROOT / BASE))


def _results(tmp_path, prompts):
  """Returns a sheet's results; only the cells in `prompts` have records."""
  sheet = made_up.sheet(tmp_path, SHEET)
  cells = [cell for cell in sheet.cells() if cell.name in prompts]
  for cell in cells:
    # A made-up record needs it.
    cell.point.setdefault("method", "prompt")
  archive = made_up.file(
    tmp_path,
    cells,
    base={"path": BASE, "step": 1, "fingerprint": "f"},
  )
  for name, prompt in prompts.items():
    path = tmp_path / "results" / "x" / f"{name}.safetensors"
    prompt_files.save_prompt(path, prompt)
  return Results(sheet, archive)


def test_labels_are_counted_where_they_stand(tmp_path, embeddings):
  encode = tasks.use_vocabulary("ladder").encode
  no, yes, name = (encode(x)[0] for x in ("False", "True", "question"))
  unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
  second = [np.argsort(-unit @ unit[x])[1] for x in (no, yes, name)]
  assert not {no, yes} & {second[2]}
  # One prompt keeps the labels' places; the other has one in a wrong place.
  kept = embeddings[[no, yes, name, name]] * 2
  moved = embeddings[[yes, name, name, name]]
  results = _results(
    tmp_path,
    {
      "s-class_labels-ladder_boolq-seed0": kept,
      "s-random-ladder_boolq-seed0": moved,
    },
  )
  first, other = interpretability.read(results, ROOT, 2).to_dict("records")
  assert (first["with_label"], first["distinct"]) == (2, 3)
  assert (first["found"], first["kept"]) == (2, 2)
  assert other["kept"] == (second[1] == no)
  assert (other["with_label"], other["distinct"]) == (1, 2)
  cosines = [
    unit[x] @ unit[y] for x, y in zip((no, yes, name), second, strict=True)
  ]
  expected = np.mean([*cosines, cosines[2]])
  assert first["tightness"] == pytest.approx(expected, abs=1e-5)
  text = interpretability.page(PAGE, results, ROOT)
  assert "2 prompts of 6 cells" in text
  assert (
    "| class_labels, s | 1 | 2.0 of 4 | 2 of 2 | 2 of 2 | 3.0 | 1.00 |"
    in (text)
  )
  assert "`question` (2), `False`, `True`" in text


def test_page_lists_only_prompts_whose_model_is_there(tmp_path, embeddings):
  assert interpretability.page(PAGE, _results(tmp_path, {}), ROOT) is None
  name = "s-class_labels-ladder_boolq-seed0"
  results = _results(tmp_path, {name: embeddings[:4]})
  assert interpretability.page(PAGE, results, tmp_path) is None
