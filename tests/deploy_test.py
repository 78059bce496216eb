"""Tests that deploy/ fits its schema and the server, and its files agree."""

import json
import re

import documented
import kubernetes_validate
import pytest
import yaml

from prompt_tuning.commands import console
from prompt_tuning.serving import prompt_store, service

FOLDER = documented.ROOT / "deploy"
IMAGE = (documented.ROOT / "Dockerfile").read_text()
(SERVICE, CLAIM, SET) = MANIFESTS = list(
  yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
)
POD = SET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
COMPOSE, WITH_GPU = (
  yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
  for name in ("compose", "compose.gpu")
)


def _check(command):
  """Parses a command of the image; the server's parser refuses a wrong one."""
  (start,) = re.findall(r"^ENTRYPOINT (\[.*?\])", IMAGE, re.S | re.M)
  words = json.loads(start.replace("\\\n", ""))
  args = console.parse([*words[1:], *command])
  folders = args.checkpoint, args.prompts, args.jobs
  assert folders == ("/model", "/prompts", "/jobs")
  return args


def test_manifests_fit_the_schema():
  for document in MANIFESTS:
    kubernetes_validate.validate(document, "1.35", strict=True)


def test_manifests_fit_together():
  args = _check(CONTAINER["args"])
  assert args.keys == "/keys/keys"
  labels = SET["spec"]["template"]["metadata"]["labels"]
  assert SERVICE["spec"]["selector"] == labels
  assert SET["spec"]["selector"]["matchLabels"] == labels
  volumes = {x["name"]: x for x in POD["volumes"]}
  claims = [x["metadata"]["name"] for x in SET["spec"]["volumeClaimTemplates"]]
  mounts = {x["mountPath"]: x["name"] for x in CONTAINER["volumeMounts"]}
  assert mounts.keys() == {"/model", "/keys", "/prompts", "/jobs"}
  assert set(mounts.values()) == {*volumes, *claims}
  claim = volumes["model"]["persistentVolumeClaim"]["claimName"]
  assert claim == CLAIM["metadata"]["name"]
  for name, path in (
    ("startupProbe", "/readyz"),
    ("readinessProbe", "/readyz"),
    ("livenessProbe", "/healthz"),
  ):
    assert CONTAINER[name]["httpGet"] == {"path": path, "port": "http"}
  # A restart does not mend a folder that hangs, so the probe waits longer.
  slowest = prompt_store._PATIENCE + 3 * service._PROBE_SECONDS
  assert CONTAINER["livenessProbe"].get("timeoutSeconds", 1) > slowest
  # The grace period covers a started answer and the pause before SIGTERM.
  assert POD["terminationGracePeriodSeconds"] > args.answer_seconds + 5


def test_no_variable_of_the_service_is_taken_for_a_flag(monkeypatch):
  """Kubernetes sets a variable for each service unless a pod disables that."""
  if POD.get("enableServiceLinks", True):
    name = SERVICE["metadata"]["name"].upper().replace("-", "_")
    monkeypatch.setenv(f"{name}_PORT", "tcp://10.0.0.1:80")
  _check(CONTAINER["args"])


def test_compose_files_fit_the_image():
  server, gpu = (x["services"]["server"] for x in (COMPOSE, WITH_GPU))
  assert (FOLDER / server["build"] / "Dockerfile").samefile(
    documented.ROOT / "Dockerfile"
  )
  (default,) = re.findall(r"^CMD (\[.*\])", IMAGE, re.M)
  for command in json.loads(default), gpu["command"]:
    assert _check(command).keys == "/keys"
  targets = [re.split(r":(?=/)", x)[1] for x in server["volumes"]]
  assert targets == ["/prompts", "/jobs", "/model:ro", "/keys:ro"]
  assert COMPOSE["volumes"].keys() == {"prompts", "jobs"}
  for name in gpu["build"]["args"]:
    assert re.search(rf"^ARG {name}=", IMAGE, re.M)


def test_settings_come_from_the_environment_too(monkeypatch):
  settings = {"ROWS": "64", "HOSTS": "a,b", "DTYPE": "float32"}
  for name, value in {**settings, "WITHOUT_KEYS": "false"}.items():
    monkeypatch.setenv(f"PROMPT_TUNING_{name}", value)
  args = _check(CONTAINER["args"])
  assert (args.rows, args.hosts) == (64, ["a", "b"])
  assert args.dtype == "bfloat16"  # The flag wins.
  assert not args.without_keys
  monkeypatch.setenv("PROMPT_TUNING_ROWS", "many")
  with pytest.raises(SystemExit):
    _check(CONTAINER["args"])
