"""Made-up rows, tables and values of GLUE and SQuAD."""

import pathlib
import tomllib

_PATH = pathlib.Path(__file__).parent / "testdata" / "glue.toml"
CASES = tomllib.loads(_PATH.read_text())
