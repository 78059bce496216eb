"""Lists what a checkpoint holds, or where two of them differ.

  python scripts/inspect_checkpoint.py PATH [PATH2]

PATH is what INITIAL_CHECKPOINT_PATH takes, or the folder of a Hugging Face T5
1.1; the two may be of different formats.
"""

import argparse
import sys

from prompt_tuning.interop import checkpoint_inspection


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("path", metavar="PATH")
  parser.add_argument("other", metavar="PATH2", nargs="?")
  args = parser.parse_args()
  try:
    model = checkpoint_inspection.open_model(args.path)
    if args.other is None:
      print(checkpoint_inspection.describe(model))
    else:
      other = checkpoint_inspection.open_model(args.other)
      print(checkpoint_inspection.compare(model, other))
  except (ValueError, OSError) as error:
    sys.exit(f"Error: {error}")


if __name__ == "__main__":
  main()
