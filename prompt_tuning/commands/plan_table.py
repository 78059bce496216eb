"""Write the table of models that fit on TPUs and GPUs, results/plan.md.

  prompt-tuning plan-table                # writes the table
  prompt-tuning plan-table --compile=tpu  # first compiles missing cells

You can stop the command at any time; the same command resumes it.
"""

import argparse


def run(args: argparse.Namespace) -> None:
  """Runs the command."""
  import t5x

  t5x.show_compilers()  # Before JAX is imported.

  from prompt_tuning.experiments import plan_page, plan_table, sheets
  from t5x.planning import targets

  plan = sheets.parse(args.root / "configs/plan.toml", plan_table.Plan)
  results = args.root / "results"
  records = {kind: results / f"plan_{kind}.json" for kind in ("tpu", "gpu")}
  if args.compile:
    targets.prepare()
    cells = plan.select(args.compile, args.attention)
    plan_table.compile_cells(plan, records[args.compile], cells)
  page = plan_page.page(plan, plan_table.read(*records.values()))
  (results / "plan.md").write_text(page)
