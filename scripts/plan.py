"""Compiles a command for TPUs and GPUs that are not there, and says if it fits.

python scripts/plan.py --topology=v3:4x4 FLAGS_OF_A_COMMAND...
"""

import t5x.utils  # noqa: F401  Before what imports TensorFlow, to keep it quiet.

# isort: split

from prompt_tuning.planning import command

if __name__ == "__main__":
  command.main()
