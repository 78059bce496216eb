"""Options of a cluster, as they are typed."""

from prompt_tuning import cluster_options


def test_values_are_numbers_truths_or_names():
  given = ["timeout_min=60", "slurm_account=0123", "use_srun=False", "a=b=c"]
  assert cluster_options.read(given) == {
    "timeout_min": 60,
    "slurm_account": "0123",
    "use_srun": False,
    "a": "b=c",
  }
