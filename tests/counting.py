"""A program that counts to 4 and leaves a record, and a sheet that runs it."""

import json

from started import TESTS

from prompt_tuning.experiments import running, sheets
from t5x.configuration import identity
from t5x.runs import record_schema

# It writes a "checkpoint" after every step. FAIL says how seed 1 ends; a number
# is a signal's.
PROGRAM = """
import ast, hashlib, json, os, pathlib, sys, time
flags = [x[6:].split("=", 1) for x in sys.argv[1:] if x.startswith("--gin.")]
flags = {k: ast.literal_eval(v) for k, v in flags}
folder = pathlib.Path(flags["MODEL_DIR"])
if flags["FAIL"] == "parse" and flags["SEED"] == 1:
  left = folder / "record.json"
  if left.exists():  # The trainer says first that the last attempt was killed.
    left.write_text(left.read_text().replace('"running"', '"interrupted"'))
  sys.exit("Error: SEED must not be 1.")
settings = {k: repr(x) for k, x in flags.items() if k != "MODEL_DIR"}
settings |= CODE
text = json.dumps(["train", sorted(settings.items())])
digest = hashlib.sha256(text.encode()).hexdigest()[:32]
record = dict(
  schema=SCHEMA, kind="train", status="running", error=None, started="now",
  configuration=dict(hash=digest, settings=settings),
  command=["python", "-m", "program.train", *sys.argv[1:]], commit=None,
  versions={"jax": "0"}, device={"platform": "cpu"}, gin="A = 1", seconds=1.0,
)
def write(**fields):
  record.update(fields)
  (folder / "new").write_text(json.dumps(record))
  os.replace(folder / "new", folder / "record.json")
write()
(folder / "cores").write_text(repr(sorted(os.sched_getaffinity(0))))
steps = folder / "steps"
step = int(steps.read_text()) if steps.exists() else 0
with open(folder / "starts", "a") as f:
  f.write(f"{step} ")
while step < 4:
  time.sleep(flags["SLEEP"])
  step += 1
  (folder / "new").write_text(str(step))
  os.replace(folder / "new", steps)
  if flags["FAIL"] == "loss" and flags["SEED"] == 1:
    write(status="failed", error=f"{os.getcwd()}/x: the loss is nan")
    sys.exit(1)
  if flags["FAIL"].isdigit() and flags["SEED"] == 1:
    print("Error in step 1", flush=True)
    os.kill(os.getpid(), int(flags["FAIL"]))
best = dict(step=4, metrics={"cb": {"accuracy": 50.0 + flags["SEED"]}})
if flags["FAIL"] == "nan" and flags["SEED"] == 1:
  best["metrics"]["cb"]["accuracy"] = float("nan")
if flags["FAIL"] == "silent" and flags["SEED"] == 1:
  sys.exit()
write(status="finished", evals=[best], best=best)
"""
SHEET = (TESTS / "testdata" / "counting.toml").read_text()


def place(folder, sleep=0.0, fail="") -> running.Workspace:
  """Makes a repository with the program and the sheet `x`."""
  (folder / "program").mkdir(parents=True)
  (folder / "program" / "train.py").write_text(
    PROGRAM.replace("SCHEMA", str(record_schema.VERSION)).replace(
      "CODE", repr(identity.CODE_SETTINGS["train"])
    )
  )
  (folder / "configs").mkdir()
  text = SHEET.replace("SLEEP = 0.0", f"SLEEP = {sleep}")
  text = text.replace('FAIL = ""', f'FAIL = "{fail}"')
  (folder / "configs" / "x.toml").write_text(text)
  return running.Workspace(folder, folder / "results")


def replace(path, old, new):
  """Replaces a text in a file, which must contain it."""
  text = path.read_text()
  assert old in text
  path.write_text(text.replace(old, new))


def edit(place, old, new):
  """Replaces a text in the sheet `x`; returns its cells."""
  replace(place.root / "configs" / "x.toml", old, new)
  return cells(place)


def edit_program(root, old, new):
  """Replaces a text in the program."""
  replace(root / "program" / "train.py", old, new)


def cells(place, sheet="x"):
  return sheets.load(sheet, place.root / "configs").cells()


def filed(place, sheet="x"):
  """Returns cell -> its record in `results`."""
  return {
    path.stem: json.loads(path.read_text())
    for path in sorted((place.results / sheet).glob("*.json"))
  }
