"""Tests of the launcher, with a program that only leaves a record."""

import contextlib
import os
import signal
import subprocess
import sys
from unittest import mock

import counting
import pytest
import slurm
import started

from prompt_tuning import cores
from prompt_tuning.commands import console
from prompt_tuning.experiments import launching, running


@pytest.fixture
def place(tmp_path):
  return counting.place(tmp_path)


def _start(place, *arguments, stdout=subprocess.PIPE):
  return subprocess.Popen(
    [
      *(sys.executable, "-m", "prompt_tuning", "launch", "x"),
      *(f"--root={place.root}", *arguments),
    ],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    stderr=subprocess.PIPE,
    stdout=stdout,
    text=True,
    start_new_session=True,
  )


def _launch(place, *arguments):
  return console.main(["launch", "x", f"--root={place.root}", *arguments])


def _ends(outcomes):
  return {x.cell.name: x.error or x.status for x in outcomes}


def test_launch_runs_what_has_no_record(place):
  """Records of another sheet and of a run that stopped early count."""
  cells = counting.cells(place)
  counting.edit_program(place.root, 'status="finished"', 'status="stopped"')
  assert running.run_cell(cells[1], place).status == "stopped"
  (place.results / "y").mkdir()
  place.record(cells[1]).rename(place.results / "y" / "other.json")
  outcomes = launching.launch(cells, place, jobs=2)
  assert _ends(outcomes) == {"cb-seed0": "stopped", "cb-seed2": "stopped"}
  assert set(counting.filed(place)) == {"cb-seed0", "cb-seed2"}
  assert launching.launch(cells, place) == []
  assert _launch(place) == 0


def test_second_launcher_passes_over_what_the_first_runs(place, monkeypatch):
  cells = counting.cells(place)
  order = []
  first = contextlib.ExitStack()

  def write(bar, text, **unused):
    order.append(text.partition(":")[0])
    if len(order) == 2:
      first.close()

  monkeypatch.setattr(launching.tqdm.tqdm, "write", write)
  first.enter_context(
    running.locks(cells[0], place, running.Processes(), waits=True)
  )
  launching.launch(cells, place)
  assert order == [x.full_name for x in (*cells[1:], cells[0])]


def test_jobs_share_the_cores(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7, 2, 3, 5})
  assert [cores.shares(jobs) for jobs in (1, 2, 3, 5)] == [
    [()],
    [[2, 3], [5, 7]],
    [[2], [3], [5]],
    [()] * 5,  # More jobs than cores: the system shares them.
  ]


def test_a_job_runs_on_its_own_cores(place, monkeypatch):
  cell, *_ = counting.cells(place)
  every = os.sched_getaffinity(0)
  monkeypatch.setattr(cores, "shares", lambda jobs: [[min(every)]])
  launching.launch([cell], place)
  assert (place.folder(cell) / "cores").read_text() == f"[{min(every)}]"
  assert os.sched_getaffinity(0) == every


def test_what_goes_wrong_with_cells_does_not_stop_the_others(
  tmp_path, monkeypatch
):
  place = counting.place(tmp_path, fail="loss")
  cells = counting.cells(place)
  run_cell = running.run_cell

  def run(cell, *arguments):
    if cell == cells[0]:
      raise OSError("disk full")
    return run_cell(cell, *arguments)

  with monkeypatch.context() as patch:
    patch.setattr(launching, "run_cell", run)
    ends = _ends(launching.launch(cells, place))
  assert ends["cb-seed0"] == "OSError: disk full"
  assert ends["cb-seed2"] == "finished"
  # The error does not name this machine's folder.
  assert counting.filed(place)["cb-seed1"]["error"] == "x: the loss is nan"
  assert _ends(launching.launch(cells, place)) == {"cb-seed0": "finished"}
  assert _launch(place) == 1
  (again,) = launching.launch(cells, place, retry_failed=True)
  assert again.status == "failed"


def test_killed_twice_it_ends_with_the_same_records(tmp_path):
  """The first signal kills only the launcher, the second also its run."""
  place = counting.place(tmp_path, sleep=0.15)
  cells = counting.cells(place)
  folders = [place.folder(cell) for cell in cells]
  for moment, kill in (
    (folders[0] / "record.json", os.kill),  # The first run has begun.
    (folders[1] / "steps", os.killpg),  # The second has saved something.
  ):
    launcher = _start(place)
    started.wait(moment.exists)
    kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
  assert _launch(place) == 0
  for seed, record in enumerate(counting.filed(place).values()):
    best = {"step": 4, "metrics": {"cb": {"accuracy": 50.0 + seed}}}
    assert (record["status"], record["best"]) == ("finished", best)
  # No run was in two processes, and only the killed one started again.
  first, second, third = (
    [int(x) for x in (folder / "starts").read_text().split()]
    for folder in folders
  )
  assert second == sorted(second)
  assert first == third == [0]


def test_launcher_that_breaks_begins_no_more(tmp_path, monkeypatch):
  place = counting.place(tmp_path, sleep=0.1)

  def write(*arguments, **unused):
    raise BrokenPipeError

  monkeypatch.setattr(launching.tqdm.tqdm, "write", write)
  with pytest.raises(BrokenPipeError):
    launching.launch(counting.cells(place), place)
  # The second had begun when the first was over.
  assert "cb-seed2" not in counting.filed(place)


def test_stopped_launcher_stops_its_runs(tmp_path):
  place = counting.place(tmp_path, sleep=30)
  launcher = _start(place)
  started.wait(lambda: list(tmp_path.glob("runs/x/*/record.json")))
  launcher.send_signal(signal.SIGTERM)
  _, errors = launcher.communicate(timeout=30)
  assert launcher.returncode == 128 + signal.SIGTERM
  assert "the same command resumes" in errors
  assert not counting.filed(place)


def test_dry_run_prints_plain_commands(place, capsys):
  running.run_cell(counting.cells(place)[0], place)
  assert _launch(place, "--dry-run", "--cell=*[01]") == 0
  commands, summary = capsys.readouterr()
  assert commands.splitlines()[1] == (
    "python -m program.train --gin.SEED=1 --gin.SLEEP=0.0 '--gin.FAIL=\"\"' "
    "'--gin.MODEL_DIR=\"runs/x/cb-seed1\"'"
  )
  assert "1 of 2 cells to run." in summary


def test_dry_run_ends_when_nobody_reads_it(place):
  read, write = os.pipe()
  os.close(read)
  launcher = _start(place, "--dry-run", stdout=write)
  os.close(write)
  _, summary = launcher.communicate()
  assert (launcher.returncode, summary) == (0, "3 of 3 cells to run.\n")


def test_cells_that_need_the_others_run_after_them(tmp_path):
  place = counting.place(tmp_path, fail="loss")
  counting.edit(place, "[layout]", "[values.seed.0]\nlast = true\n[layout]")
  outcomes = launching.launch(counting.cells(place), place, jobs=3)
  assert list(_ends(outcomes))[-1] == "cb-seed0"


def test_one_run_in_other_words_is_run_once(place):
  """Cells of two sheets whose settings are the same run only once."""
  counting.edit(place, "gin_files = []", 'gin_files = ["a.gin"]')
  (place.root / "a.gin").write_text(
    "import __main__ as train_script\n"
    "SEED = 0\nSLEEP = 0.0\nFAIL = ''\nRATE = 0.3\nMODEL_DIR = None\n"
    "train_script.train.rate = %RATE\ntrain_script.train.seed = %SEED\n"
  )
  sheet = place.root / "configs" / "x.toml"
  sheet.with_name("y.toml").write_text(
    sheet.read_text().replace("SEED =", "RATE = 0.3, SEED =")
  )
  both = [*counting.cells(place, "x"), *counting.cells(place, "y")]
  assert len({tuple(cell.bindings.items()) for cell in both}) == 6
  todo = launching.open_cells(both, place.archive())
  assert [cell.full_name for cell in todo] == [f"x/cb-seed{i}" for i in "012"]


def test_cluster_jobs_leave_records(place):
  pytest.importorskip("submitit")
  counting.edit(place, "[layout]", "[values.seed.2]\nlast = true\n[layout]")
  words = ("--cell=*[02]", "--submit=local", "--option=timeout_min=2")
  job, errors = _start(place, *words).communicate(timeout=120)
  assert job.strip(), errors
  assert "Waiting for these: 1." in errors
  started.wait(lambda: counting.filed(place), 120)
  assert list(counting.filed(place)) == ["cb-seed0"]


def test_second_cluster_job_of_a_cell_does_not_wait_for_the_first(
  place, monkeypatch
):
  submitit = pytest.importorskip("submitit")
  cell, *_ = counting.cells(place)
  job = mock.Mock(return_value=[])
  monkeypatch.setattr(submitit.AutoExecutor, "map_array", job)
  launching.submit([cell], place, "local", {}, place.archive())
  run, *columns = job.call_args.args
  with running.locks(cell, place, running.Processes(), waits=True):
    (outcome,) = map(run, *columns)
  assert outcome.status == "busy"


def test_option_that_the_cluster_does_not_know_is_one_line(place, capsys):
  pytest.importorskip("submitit")
  assert _launch(place, "--submit=slurm", "--option=wall_time=3") == 1
  (*_, error) = capsys.readouterr().err.splitlines()
  assert error.startswith("Error: submitit, cluster 'slurm'")


@pytest.mark.slow
def test_jobs_of_a_real_slurm_leave_records(place):
  pytest.importorskip("submitit")
  with slurm.cluster():
    launcher = _start(place, "--submit=slurm", "--option=timeout_min=1")
    ids, errors = launcher.communicate(timeout=60)
    assert len(ids.split()) == 3, errors
    started.wait(lambda: len(counting.filed(place)) == 3, 120)
  found = counting.filed(place).values()
  assert [record["status"] for record in found] == ["finished"] * 3
