import seqio

from prompt_tuning import tasks  # noqa: F401
from prompt_tuning.data import task_names


def test_names_are_those_that_are_registered():
  registered = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
  ours = {
    name.removesuffix("_prefixed").removesuffix("_sentinel")
    for name in registered
    if name.startswith(("super_glue", "mini", "ladder", "dpr"))
    and not name.startswith("ladder_probe_")
  }
  listed = task_names.by_heading()
  assert {name for names in listed.values() for name in names} == ours
  tasks_, mixtures, _ = listed.values()
  for names, suffixes in (
    (tasks_, ("_prefixed", "_sentinel")),
    (mixtures, ("_prefixed",)),
  ):
    assert {f"{x}{y}" for x in names for y in suffixes} <= registered
