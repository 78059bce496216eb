"""Names of prompt files in a folder that tenants share.

  NAME               belongs to nobody; every tenant uses it as NAME
  NAME@OWNER         only its owner uses it, as NAME
  NAME@OWNER.shared  other tenants use it too, as NAME@OWNER

Ownership changes by a rename, so no file has two owners, and replicas that
share the folder need nothing else.
"""

import re

# The tenant of a request without an accepted key, which owns nothing.
NOBODY = "?"
# 64 characters, as for OpenAI's suffix, and the end of a job's id.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
OWNER = re.compile(r"[A-Za-z0-9_-]{1,32}")
_SHARED = ".shared"
STEM = re.compile(f"{NAME.pattern}(@{OWNER.pattern}({re.escape(_SHARED)})?)?")


def check(name: str) -> None:
  """Raises ValueError if no prompt may have a name."""
  if not NAME.fullmatch(name):
    raise ValueError(
      "Expected a name of at most 80 letters, digits, '.', '_' and '-' that "
      f"starts with a letter or a digit, got {name[:80]!r}."
    )


def stem(name: str, owner: str | None, is_shared: bool = False) -> str:
  """Returns the stem of a prompt's file; without keys, `owner` is None."""
  if owner is None:
    return name
  return f"{name}@{owner}{_SHARED if is_shared else ''}"


def split(stem: str) -> tuple[str, str, bool]:
  """Returns a prompt's name, owner ("" for none), and whether it is shared."""
  name, _, owner = stem.partition("@")
  is_shared = not owner or owner.endswith(_SHARED)
  return name, owner.removesuffix(_SHARED), is_shared


def owns(tenant: str | None, stem: str) -> bool:
  """Returns whether a tenant may change a prompt; None may change any."""
  return tenant in (None, split(stem)[1])


def shown(stem: str, tenant: str | None) -> str | None:
  """Returns the name by which a tenant uses a prompt, or None if it may not."""
  if tenant is None:
    return stem
  name, owner, is_shared = split(stem)
  if owner in ("", tenant):
    return name
  return f"{name}@{owner}" if is_shared else None


def meant(name: str, tenant: str | None) -> list[str]:
  """Returns the stems that a tenant may mean by a name, its own first."""
  if tenant is None:
    return [name]
  others = f"{name}{_SHARED}" if "@" in name else name
  return [stem(name, tenant, True), stem(name, tenant), others]
