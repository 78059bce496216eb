"""Devices to compile for, which need not exist, with memory and speed."""

import dataclasses
import os
import pathlib
import re
import tomllib
from typing import Any

import jax
from jax.experimental import topologies

_FOLDER = pathlib.Path(__file__).parent / "targets"
_GPU = re.compile(r"(h100|a100|cpu)x([1-9]\d*)")
_TPU = re.compile(r"(v\d\w?):[1-9]\d*(x[1-9]\d*)+")


@dataclasses.dataclass(frozen=True)
class Target:
  """Devices of one kind.

  Attributes:
    name: Its name, such as "v3:4x4" or "h100x8".
    devices: JAX's descriptions of the devices.
    memory: The memory of a device, in bytes.
    peak: A device's bfloat16 operations per second, or None.
    bandwidth: Bytes per second of a device's memory, or None.
    taken: Share of the memory that JAX takes by default. Source: docs.jax.dev,
      GPU memory allocation.
  """

  name: str
  devices: tuple[Any, ...]
  memory: float
  peak: float | None
  bandwidth: float | None
  taken: float

  @property
  def is_tpu(self) -> bool:
    """True for TPUs."""
    return _TPU.fullmatch(self.name) is not None


def find(name: str) -> Target:
  """Returns a target by its name; its compiler must be installed.

  Args:
    name: A libtpu topology such as "v5e:4x4", or GPUs such as "h100x8" or
      "a100x1"; "cpux1" is this machine.

  Raises:
    ValueError: if the target is unknown, or its compiler is not installed.
  """
  kind, chip = _chip(name)
  count = int(name.rpartition("x")[2])  # Of GPUs, or of this machine's devices.
  try:
    if _TPU.fullmatch(name):
      options = {"chip_config_name": chip["cores"]} if "cores" in chip else {}
      devices = topologies.get_topology_desc(
        platform="tpu", topology_name=name, **options
      ).devices
    elif kind == "cpu":
      devices = jax.devices("cpu")[:count]
      if len(devices) < count:
        raise ValueError(f"this machine shows {len(devices)} devices")
    else:
      devices = topologies.get_topology_desc(
        platform="cuda",
        target_config=(_FOLDER / f"{kind}.txt").read_text(),
        topology=f"1x1x{count}",
      ).devices
  except (RuntimeError, ValueError) as e:
    raise ValueError(
      f"No compiler for {name}: bash scripts/setup.sh plan installs those for "
      f"TPUs and GPUs ({str(e)[:200]})."
    ) from e
  return Target(
    name,
    tuple(devices),
    chip["memory_gib"] * 2**30,
    chip["peak_tflops"] * 1e12 if "peak_tflops" in chip else None,
    chip["bandwidth_gb"] * 1e9 if "bandwidth_gb" in chip else None,
    0.75 if kind in ("a100", "h100") else 1.0,
  )


def attention_kernel(name: str) -> str | None:
  """Returns the attention kernel for a target's name, if there is one."""
  return _chip(name)[1].get("attention_kernel")


def _chip(name: str) -> tuple[str, dict[str, Any]]:
  """Returns the kind and the facts of a target's devices."""
  match = _GPU.fullmatch(name) or _TPU.fullmatch(name)
  facts = tomllib.loads((_FOLDER / "chips.toml").read_text())
  if match is None or match[1] not in facts:
    raise ValueError(
      f"Expected a topology such as v3:4x4, v5e:4x4, h100x8 or a100x1, got "
      f"{name!r}. Known kinds: {', '.join(facts)}."
    )
  return match[1], facts[match[1]]


def prepare() -> None:
  """Sets the compilers' options; call it before JAX's first use."""
  jax.config.update("jax_platforms", "cpu")  # Another process may use the TPU.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
  try:
    import nvidia.cuda_nvcc as nvcc  # pyright: ignore[reportMissingImports]
  except ImportError:
    return
  # No autotuning, which would need the device.
  flags = (
    f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={nvcc.__path__[0]}"
  )
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
