"""The cost of a compiled program, in words."""

from t5x.planning import costs, programs, targets

GIB = 2**30
LENGTHS_NOTE = (
  "For inputs of {inputs} and targets of {targets}, as no TASK_FEATURE_LENGTHS "
  "is given; a run's are those of its task."
).format(**programs.LENGTHS)
_EVALUATION_NOTE = (
  "a run's batches have the longest inputs of their split, which nothing cuts; "
  "to give them: docs/accelerators.md"
)


def describe(found: costs.CostReport, steps: int | None) -> str:
  """Returns lines on the memory and time that a program takes."""
  peak = "unknown" if found.peak is None else f"{found.peak / GIB:.2f} GiB"
  lines = [
    f"{found.program} on {found.topology}, {found.devices} devices: "
    f"{'fits' if found.fits else 'does not fit'}",
    f"  memory a device  {peak} of {found.memory / GIB:.2f} GiB",
    f"    weights        {found.weights / GIB:.3f} GiB",
    f"    optimizer      {found.optimizer / GIB:.3f} GiB",
    f"    batch          {found.batch / GIB:.3f} GiB",
    f"    temporaries    {found.temporaries / GIB:.3f} GiB (activations too)",
    f"    code           {found.code / GIB:.3f} GiB",
    f"  products         {found.flops / 1e12:.3f} TFLOP a device",
    f"  reads at least   {found.argument_bytes / GIB:.3f} GiB a device",
  ]
  lines += [
    f"  {kind:17}{times} a step, {size / 1e9:.3f} GB a device"
    for kind, (times, size) in found.collectives.items()
  ] or ["  exchanges        nothing"]
  if found.flops:
    lines.append(f"  attention        {_attention(found)}")
  if found.seconds_bound is not None:
    bound = found.seconds_bound
    lines.append(f"  bound            {bound:.4g} seconds a step at the least")
    if steps:
      hours = bound * steps / 3600
      lines.append(
        f"  bound of {steps} steps: {hours:.3g} hours, "
        f"{hours * found.devices:.3g} device hours at the least"
      )
  effort = ", with the least effort" if found.is_quick else ""
  lines.append(f"  compiled in      {found.compile_seconds:.0f} s{effort}")
  if found.fits and (found.peak or 0) > found.taken * found.memory:
    lines.append(
      f"  note             JAX takes {found.taken:.0%} of the memory unless "
      "told otherwise: XLA_CLIENT_MEM_FRACTION=0.95"
    )
  if found.refused:
    lines.append(f"  refused          {found.refused}")
  if found.program == "evaluate":
    lines.append(f"  note             {_EVALUATION_NOTE}")
  return "\n".join(lines)


def _attention(found: costs.CostReport) -> str:
  """Returns the attention in a program, and the kernel it could have."""
  if found.kernels:
    return f"by kernels: {', '.join(found.kernels)}"
  kernel = targets.attention_kernel(found.topology)
  if kernel is None:
    return "plain"
  return (
    f"plain; --gin.network.T5Config.attention_kernel=\"'{kernel}'\" is a "
    "kernel's (docs/speed.md)"
  )
