"""Tests that only exact versions with hashes are installed."""

import pathlib
import re
import subprocess
import tomllib

from packaging.requirements import Requirement
import pytest
import started

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted(ROOT.glob("constraints*.txt"))
# Extra -> the file with its packages that are neither in constraints.txt nor,
# except for the server's, in constraints-dev.txt.
EXTRAS = {
  "serving": "",
  "dev": "-dev",
  "t5-small": "-dev",
  "gcs": "-dev",
  "cluster": "-dev",
  "hub": "-interop",
  "interop": "-interop",
  "smollm2": "-interop",
  "plan": "-plan",
}


def _pins(*paths: pathlib.Path) -> dict[str, Requirement]:
  """Returns name -> the pinned requirement in the files."""
  lines = "".join(x.read_text() for x in paths).replace("\\\n", "").splitlines()
  texts = [re.sub(r" --hash=.*", "", x) for x in lines if x[:1] not in "# "]
  return {Requirement(x).name: Requirement(x) for x in texts}


@pytest.mark.parametrize("path", FILES, ids=lambda x: x.stem)
def test_every_version_is_exact_and_has_hashes(path):
  entry = re.compile(
    r"[a-z0-9.-]+(\[[a-z]+\])?==[^ ]+( ; [^\\]+)? \\\n"
    r"(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+"
  )
  text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
  assert entry.sub("", text) == ""  # No address, option or bare name is left.


def test_files_agree_on_versions():
  everywhere = _pins(*FILES)
  for path in FILES:
    for name, pin in _pins(path).items():
      assert pin.specifier == everywhere[name].specifier


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_versions_are_in_the_ranges_of_the_projects(extra, python):
  ours, runtime = (
    tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    for folder in ("", "runtime")
  )
  assert set(EXTRAS) == set(ours["optional-dependencies"])
  kinds = ["", "-dev", EXTRAS[extra]] if EXTRAS[extra] else [""]
  pins = _pins(*(ROOT / f"constraints{kind}.txt" for kind in kinds))
  wanted = [*ours["dependencies"], *runtime["dependencies"]]
  wanted += ours["optional-dependencies"][extra]
  for each in map(Requirement, wanted):
    name = re.sub(r"[-_.]+", "-", each.name).lower()
    if name == "torch":  # torch has no hash.
      continue
    where = {"python_version": python, "python_full_version": f"{python}.1"}
    (version,) = pins[name].specifier
    assert each.specifier.contains(version.version), each
    assert pins[name].marker is None or pins[name].marker.evaluate(where)


def test_setup_installs_nothing_without_hashes_but_torch(tmp_path):
  python = tmp_path / "bin" / "python"
  python.parent.mkdir()
  (tmp_path / "pyvenv.cfg").touch()
  python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
  python.chmod(0o755)

  def installed(*extras):
    (tmp_path / "calls").unlink(missing_ok=True)
    subprocess.run(
      ["bash", ROOT / "scripts" / "setup.sh", *extras],
      env={"PATH": "/usr/bin:/bin", "PROMPT_TUNING_VENV": str(tmp_path)},
      check=True,
    )
    calls = (tmp_path / "calls").read_text().splitlines()
    return [x for x in calls if x.startswith("-m pip install")]

  for extras in ((), ("interop",), ("plan", "interop")):
    build, hashed, ours, *others = installed(*extras)
    for call in (build, hashed):
      assert "--require-hashes" in call
    for file in ("", "-dev", *(f"-{x}" for x in extras)):
      assert f"{ROOT}/constraints{file}.txt" in hashed
    for call in (hashed, ours):
      assert {"--no-deps", "--no-build-isolation"} <= set(call.split())
    assert [x.split()[-1][:7] for x in others] == ["torch=="] * (
      "interop" in extras
    )
    assert not installed(*extras)  # All is up to date.
  with pytest.raises(subprocess.CalledProcessError):
    installed("cuda")


def test_licences_are_of_the_pinned_versions():
  page = (ROOT / "docs" / "licences.md").read_text()
  where = {"python_full_version": "3.11.1", "sys_platform": "linux"}
  for name, pin in _pins(*FILES).items():
    if pin.marker is None or pin.marker.evaluate(where):
      (version,) = pin.specifier
      assert f"\n| {name} | {version.version} |" in page


@pytest.mark.skipif(
  any(
    x.name.startswith(("nvidia", "accel", "vfio"))
    for x in pathlib.Path("/dev").glob("*")
  ),
  reason="There is a device.",
)
def test_compilers_without_their_devices_look_for_none(tmp_path):
  """JAX starts silently on a CPU with a CUDA plugin and libtpu installed."""
  (tmp_path / "libtpu.py").write_text(
    "def get_library_path():\n  return __file__"
  )
  plugin = tmp_path / "jax_plugins" / "xla_cuda12" / "__init__.py"
  plugin.parent.mkdir(parents=True)
  plugin.write_text("def initialize():\n  raise RuntimeError('no CUDA')")
  done = started.python(
    *("-c", "import t5x, jax; print(jax.devices())"),
    env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
  )
  assert "Cpu" in done.stdout
  assert done.stderr == ""
