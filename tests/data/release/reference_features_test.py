"""Data built from the official release has the features of a reference."""

import dataclasses
import json

import pytest
from superglue_reference import REFERENCE
import tensorflow_datasets as tfds

from prompt_tuning.data.release import rows as release_rows
from prompt_tuning.data.release import tfds_data as official_release


def as_json(example):
  """A TFDS example as the reference wrote it."""

  def convert(value):
    if isinstance(value, dict):
      return {name: convert(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
      return value.decode()
    return value.tolist() if value.ndim == 0 else [v.decode() for v in value]

  return convert(example)


@pytest.mark.parametrize(
  "case", REFERENCE["from_jsonl"], ids=lambda case: case["config"]
)
def test_features_equal_the_reference(tmp_path, monkeypatch, case):
  """What TFDS makes of rows in the official form, through our builder."""
  config, count = case["config"], len(case["features"])
  by_config = {task.config: task for task in release_rows.TASKS}
  # The tasks do not use WSC's unrepaired spans; the reference has them too.
  by_config["wsc"] = dataclasses.replace(by_config["wsc.fixed"], config="wsc")
  task = by_config[config]
  counts = dict.fromkeys(task.counts, count)
  task = dataclasses.replace(task, counts=counts)
  monkeypatch.setattr(release_rows, "TASKS", (task,))
  # Some rows have no label: only the test split may.
  path = tmp_path / task.folder / task.file_name("test")
  path.parent.mkdir()
  path.write_text("".join(json.dumps(row) + "\n" for row in case["rows"]))
  tfds.disable_progress_bar()
  official_release.convert(tmp_path, tmp_path / "data")
  examples = tfds.load(
    f"super_glue/{config}:1.0.2",
    data_dir=tmp_path / "data",
    split="test",
    download=False,
  )
  got = [as_json(example) for example in tfds.as_numpy(examples)]
  # TFDS shuffles, and has the features in an order of its own.
  assert sorted(map(json_text, got)) == sorted(map(json_text, case["features"]))


def json_text(value):
  return json.dumps(value, sort_keys=True)
