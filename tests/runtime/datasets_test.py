"""One registered task, used by models of different vocabularies."""

import dataclasses

import pytest
import seqio
import tiny

from prompt_tuning.data import vocabulary
from t5x.input import datasets

seqio.MixtureRegistry.add(
  "tiny_mixture", [(tiny.TASK, 1), (tiny.OTHER_TASK, 2)]
)


@dataclasses.dataclass
class _Model:
  input_vocabulary: seqio.Vocabulary
  output_vocabulary: seqio.Vocabulary
  module: None = None


def _inputs(cfg):
  dataset = seqio.get_dataset(
    cfg.task_or_mixture(),
    task_feature_lengths=tiny.LENGTHS,
    dataset_split="validation",
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
    shuffle=False,
    num_epochs=1,
  )
  return next(dataset.as_numpy_iterator())["encoder_input_tokens"].tolist()


@pytest.mark.parametrize("name", [tiny.TASK, "tiny_mixture"])
def test_each_model_gets_the_task_in_its_own_tokens(monkeypatch, name):
  # No model was chosen for the whole program.
  monkeypatch.setattr(vocabulary.MODEL_VOCABULARY, "in_use", None)
  models = [
    _Model(seqio.ByteVocabulary(0), seqio.ByteVocabulary(0)),
    _Model(_Shifted(0), _Shifted(0)),
  ]
  cfg = tiny.dataset_config(mixture_or_task_name=name, split="validation")
  bound = [datasets.for_model(cfg, model) for model in models]
  first, second = map(_inputs, bound)
  assert second == [token + 1 if token > 1 else token for token in first]
  assert [x.name for x in bound] == [name, name]
  for x, model in zip(bound, models, strict=True):
    features = x.task_or_mixture().output_features
    assert features["targets"].vocabulary is model.output_vocabulary


class _Shifted(seqio.ByteVocabulary):
  """Bytes, with other ids."""

  def _encode_tf(self, s):
    return super()._encode_tf(s) + 1


def test_task_with_a_vocabulary_of_its_own_keeps_it():
  task = seqio.TaskRegistry.get(tiny.TASK).replace(
    output_features={
      name: seqio.Feature(seqio.ByteVocabulary(7)) for name in tiny.LENGTHS
    }
  )
  cfg = tiny.dataset_config(mixture_or_task_name=task)
  model = _Model(seqio.ByteVocabulary(7), seqio.ByteVocabulary(7))
  assert datasets.for_model(cfg, model).task_or_mixture() is task


def test_name_is_registered_for_a_while():
  task = seqio.TaskRegistry.get(tiny.TASK)
  with datasets.registered(task) as name:
    assert seqio.get_mixture_or_task(name) is task
  assert name not in seqio.TaskRegistry.names()
