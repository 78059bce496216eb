"""Write docs/licences.md: the licence of each package in this environment.

bash scripts/setup.sh interop plan
.venv/bin/python scripts/licences.py
"""

from importlib import metadata
import pathlib
import re

_ROOT = pathlib.Path(__file__).parents[1]
_PAGE = """# Licences of the packages

Written by `scripts/licences.py` from what the packages say of themselves. None
of them is part of this repository, which is under the Apache License 2.0.
Those of `constraints.txt` are in the server's image.

| Packages | Named here |
|---|---|
| with a copyleft licence | {copyleft} |
| not open source | {closed} |
| that name no licence | {silent} |

Wheels also contain libraries, whose licences are in their `.dist-info` folders.
Of these, somebody looked up the copyleft ones:

| Library | Licence | In the wheels of |
|---|---|---|
| Eigen | MPL-2.0 | `jaxlib`, `ml-dtypes`, `tensorflow` |
| Mozilla's root certificates | MPL-2.0 | `grpcio` |
| axe-core | MPL-2.0 | `axe-core-python` |
| GCC's runtime | GPL-3.0, GCC exception | `numpy`, `scipy`, `scikit-learn` |
| libquadmath | LGPL-2.1 | `numpy`, `scipy` |

| Package | Version | Licence |
|---|---|---|
{rows}
"""


def licence(package: metadata.Distribution) -> str:
  """Returns a package's own statement of its licence, in one line."""
  said = package.metadata
  classifiers = [
    x.rpartition(" :: ")[2]
    for x in said.get_all("Classifier", [])
    if x.startswith("License :: ") and not x.endswith(" :: OSI Approved")
  ]
  first, *_ = (said.get("License") or "").strip().splitlines() or [""]
  return said.get("License-Expression") or "; ".join(classifiers) or first


def main() -> None:
  """Writes the page."""
  found = {
    re.sub(r"[-_.]+", "-", x.name).lower(): (x.version, licence(x))
    for x in metadata.distributions()
  }
  rows = [
    f"| {name} | {version} | {text} |"
    for name, (version, text) in sorted(found.items())
    if name not in ("prompt-tuning", "t5x", "pip")
  ]

  def names(wanted: str) -> str:
    chosen = [x for x in rows if re.search(wanted, x.split(" | ")[2])]
    return ", ".join(f"`{x.split()[1]}`" for x in chosen) or "none"

  text = _PAGE.format(
    copyleft=names("GPL|MPL|EPL|EUPL|CDDL|Mozilla|GNU"),
    closed=names("(?i)propriet|terms of service|other/"),
    silent=names("^ *[|]$"),
    rows="\n".join(rows),
  )
  (_ROOT / "docs" / "licences.md").write_text(text)


if __name__ == "__main__":
  main()
