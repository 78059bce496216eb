"""Made-up rows, tables and values of GLUE and SQuAD."""

import tomllib

from started import TESTS

CASES = tomllib.loads((TESTS / "testdata" / "glue.toml").read_text())
