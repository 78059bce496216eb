"""Pretrains the ladder's miniature T5s; see `--help`."""

from prompt_tuning.commands import pretrain_ladder

if __name__ == "__main__":
  pretrain_ladder.main()
