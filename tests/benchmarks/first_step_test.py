"""What the benchmark of a first step says of a process."""

import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import first_step  # noqa: E402

# A trainer that does nothing, and writes what the system counts of its process.
STAND_INS = {
  "t5x/__init__.py": "",
  "jax.py": """
class monitoring:
  register_event_duration_secs_listener = print
block_until_ready = print
""",
  "t5x/trainer.py": """
class Trainer:
  train_state = None
  def train_steps(self, batches, steps):
    b"x" * 50_000_000
    (peak,) = (x for x in open("/proc/self/status") if x.startswith("VmHWM"))
    open("peak", "w").write(peak)
""",
  "t5x/train.py": """
from t5x import trainer
trainer.Trainer().train_steps(None, 1)
""",
}


def test_a_gigabyte_is_a_billion_bytes(tmp_path):
  for name, text in STAND_INS.items():
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
  facts = first_step.first_step(tmp_path, str(tmp_path), [])
  _, kibibytes, unit = (tmp_path / "peak").read_text().split()
  assert unit == "kB"  # As the system calls 1,024 bytes.
  assert facts["peak_gb"] == pytest.approx(int(kibibytes) * 1.024e-6, rel=0.01)
