import seqio

from prompt_tuning.data import task_names

PREFIXES = ("super_glue", "mini", "ladder", "dpr")


def test_names_are_those_that_are_registered():
  registered = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
  ours = {name for name in registered if name.startswith(PREFIXES)}
  assert set(task_names.every()) == ours
  listed = {x for xs in task_names.by_heading().values() for x in xs}
  assert listed <= ours
