"""A real browser for tests, where one is installed: Debian's `chromium`."""

from collections.abc import Iterator
import contextlib
import os
import shutil
from typing import Any

import pytest


@contextlib.contextmanager
def chromium(downloads: str) -> Iterator[Any]:
  """Runs a headless browser; skips the test where there is none.

  Args:
    downloads: The folder for them.
  """
  webdriver = pytest.importorskip("selenium.webdriver")
  browser = shutil.which("chromium") or shutil.which("google-chrome")
  driver = shutil.which("chromedriver")
  if browser is None or driver is None:
    pytest.skip("no browser: apt-get install chromium chromium-driver")
  options = webdriver.ChromeOptions()
  options.binary_location = browser
  options.add_argument("--headless=new")
  options.add_argument("--window-size=1200,1000")
  options.add_argument("--disable-dev-shm-usage")
  if os.geteuid() == 0:  # In a container; it refuses to start otherwise.
    options.add_argument("--no-sandbox")
  options.add_experimental_option(
    "prefs", {"download.default_directory": downloads}
  )
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(executable_path=driver)
  opened = webdriver.Chrome(options=options, service=service)
  try:
    yield opened
  finally:
    opened.quit()
