"""Made-up examples of GLUE and SQuAD, with their texts and metrics."""

import tomllib

from started import TESTS

CASES = tomllib.loads((TESTS / "testdata" / "glue.toml").read_text())
