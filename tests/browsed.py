"""A real browser that shows the server's page."""

import contextlib
import os
import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
waiting = pytest.importorskip("selenium.webdriver.support.wait")

ENTER, CONTROL, TAB = "\ue007", "\ue009", "\ue004"  # WebDriver's names.


class Page:
  """The page as its user sees it."""

  def __init__(self, browser, downloads):
    self.browser, self.downloads = browser, downloads

  def all(self, selector):
    return self.browser.find_elements("css selector", selector)

  def one(self, selector):
    return self.all(selector)[0]

  def wait(self, find):
    """Waits until a function finds something."""
    wait = waiting.WebDriverWait(self.browser, 60, poll_frequency=0.05)
    wait.until(lambda _: find())

  def wait_for_text(self, selector, part):
    self.wait(lambda: part in self.one(selector).text)

  def open(self, address):
    self.browser.get(address)
    self.wait_for_text("#server", "tiny, with")

  def focused(self):
    return self.browser.switch_to.active_element

  def errors(self):
    """Returns the messages in the browser's console."""
    return [entry["message"] for entry in self.browser.get_log("browser")]

  def fill(self, **values):
    for name, value in values.items():
      field = self.one(f"#{name.replace('_', '-')}")
      field.clear()
      field.send_keys(value)

  def ask(self, names, text, labels=""):
    """Fills in the form, sends it by keyboard, and returns the answers."""
    for box in self.all("#choices input"):
      if box.is_selected() != (box.get_attribute("value") in names):
        box.click()
    self.fill(max_tokens="8", labels=labels, input=text + CONTROL + ENTER)
    done = f"{len(names)} of {len(names)} answers"
    self.wait_for_text("#try-status", done)
    headings, outputs = map(self.all, (".answer h3", ".answer output"))
    return {
      heading.text: output.get_property("textContent")
      for heading, output in zip(headings, outputs, strict=True)
    }

  def show_words(self):
    self.one("#prompt-rows button").click()
    self.wait(lambda: self.all("#words tbody tr"))


@contextlib.contextmanager
def opened(downloads):
  """Opens a browser, or skips if none is installed (Debian's `chromium`).

  Args:
    downloads: The folder for downloaded files.
  """
  browser = shutil.which("chromium") or shutil.which("google-chrome")
  executable = shutil.which("chromedriver")
  if browser is None or executable is None:
    pytest.skip("no browser: apt-get install chromium chromium-driver")
  options = webdriver.ChromeOptions()
  options.binary_location = browser
  flags = ["headless=new", "window-size=1200,1000", "disable-dev-shm-usage"]
  if os.geteuid() == 0:  # In a container; it refuses to start otherwise.
    flags.append("no-sandbox")
  for flag in flags:
    options.add_argument(f"--{flag}")
  prefs = {"download.default_directory": str(downloads)}
  options.add_experimental_option("prefs", prefs)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(executable_path=executable)
  with webdriver.Chrome(options=options, service=service) as driver:
    yield Page(driver, downloads)
