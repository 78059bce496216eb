"""Tests of the docs' table of methods: rows that train a plain prompt."""

import every_method
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("method", every_method.PROMPTS)
def test_row_of_the_table(method, service_of, tmp_path):
  every_method.check_row(method, service_of, tmp_path)
