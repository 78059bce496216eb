"""Placement of arrays on a ('data', 'model') mesh of devices."""

import collections
from collections.abc import Callable, Iterator, Sequence
import contextlib
import contextvars
import functools
from typing import Any

from flax.linen import partitioning as flax_partitioning
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
from pydantic import PositiveInt

LogicalAxisRules = Sequence[tuple[str, str | None]]
_DEVICES: contextvars.ContextVar[Sequence[Any] | None] = contextvars.ContextVar(
  "devices", default=None
)

# XLA's compiler for CPUs orders a program for parallelism: first, it computes
# and keeps the values that the backward pass is meant to compute again. This
# order takes the least memory instead.
_CPU_OPTIONS = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
# On a CPU, each bfloat16 layer is sliced from a float32 copy of all scanned
# layers. The compiler would make that copy once, before the loop, in twice the
# weights' bytes. Without this pass, it converts one layer at a time.
_SCANNED_OPTIONS = {
  "xla_disable_hlo_passes": "while-loop-invariant-code-motion"
}


@contextlib.contextmanager
def using_devices(devices: Sequence[Any]) -> Iterator[None]:
  """Makes partitioners in this context use devices that need not exist.

  Args:
    devices: JAX's devices, or descriptions of them to compile for.
  """
  token = _DEVICES.set(devices)
  try:
    yield
  finally:
    _DEVICES.reset(token)


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1,
  parameter_partitioning_dims: int = 1,
  additional_rules: LogicalAxisRules | None = None,
) -> LogicalAxisRules:
  """Returns T5's rules from logical axes to the axes of the mesh.

  Args:
    activation_partitioning_dims: 2 also shards the width of activations.
    parameter_partitioning_dims: 2 also shards the width of parameters.
    additional_rules: Rules for more axes, such as the prompt's.

  Returns:
    Pairs (logical axis, 'data', 'model' or None); the first match wins.

  Raises:
    ValueError: if a number of dimensions is not 1 or 2.
  """
  dims = (activation_partitioning_dims, parameter_partitioning_dims)
  if not {1, 2}.issuperset(dims):
    raise ValueError(
      "Expected activation_partitioning_dims and parameter_partitioning_dims "
      f"of 1 or 2, got {dims}."
    )
  axes = zip(("model", "data"), dims, strict=True)
  embed = [axis for axis, dim in axes if dim == 2]
  return (
    ("batch", "data"),
    ("vocab", "model"),
    ("mlp", "model"),
    ("heads", "model"),
    ("joined_kv", "model"),
    ("kv", None),
    *(("embed", axis) for axis in embed or [None]),
    ("relpos_buckets", None),
    ("length", None),
    ("layers", None),
    ("stack", None),
    ("mlp_activations", None),
    *(additional_rules or ()),
  )


class PjitPartitioner:
  """Partitions by logical axis rules, with `jax.jit` and `jax.sharding`."""

  def __init__(
    self,
    num_partitions: PositiveInt | None = None,
    model_parallel_submesh: Sequence[int] | None = None,
    backend: str | None = None,
    logical_axis_rules: LogicalAxisRules | None = None,
  ):
    """Makes the mesh.

    Args:
      num_partitions: Devices that share one model; 1 is data parallelism. The
        rest of the devices divide the batch.
      model_parallel_submesh: The same, as the shape of a TPU submesh. Only its
        number of devices counts: JAX finds the placement.
      backend: Platform name, or None for JAX's default.
      logical_axis_rules: Defaults to `standard_logical_axis_rules()`.

    Raises:
      ValueError: if the numbers do not fit the devices, or the platform has no
        devices.
    """
    if model_parallel_submesh is not None:
      submesh = int(np.prod(model_parallel_submesh))
      if num_partitions not in (None, submesh):
        raise ValueError(
          f"num_partitions={num_partitions} and model_parallel_submesh="
          f"{tuple(model_parallel_submesh)} disagree: give one of them."
        )
      num_partitions = submesh
    try:
      devices = _DEVICES.get() or jax.devices(backend)
    except RuntimeError as e:
      raise ValueError(
        f"No devices for PjitPartitioner.backend={backend!r}: {e}"
      ) from e
    model = num_partitions or 1
    if len(devices) % model:
      raise ValueError(
        f"num_partitions={model} does not divide the {len(devices)} devices. "
        "Choose another number of devices that share a copy of the model."
      )
    # This follows the wires between TPUs. `jax.make_mesh` cannot split a
    # physical axis on every kind, as 2 partitions of a 4x4 slice require.
    self.mesh = Mesh(
      mesh_utils.create_device_mesh(
        (len(devices) // model, model), devices, allow_split_physical_axes=True
      ),
      ("data", "model"),
      axis_types=(AxisType.Auto, AxisType.Auto),
    )
    self.logical_axis_rules = tuple(
      logical_axis_rules or standard_logical_axis_rules()
    )

  @property
  def data_partition_spec(self) -> PartitionSpec:
    return PartitionSpec("data")

  def sharding(self, spec: PartitionSpec | None = None) -> NamedSharding:
    """Returns the sharding of a spec; the default is replicated."""
    return NamedSharding(self.mesh, spec or PartitionSpec())

  def shardings_of(self, logical_axes: Any) -> Any:
    """Maps a tree of logical axis names to a tree of shardings.

    Args:
      logical_axes: A tree of `PartitionSpec` leaves with logical names.

    Returns:
      The same tree with `NamedSharding` leaves.

    Raises:
      ValueError: if an axis has no rule.
    """
    known = {name for name, _ in self.logical_axis_rules}

    def to_sharding(axes: PartitionSpec) -> NamedSharding:
      unknown = [name for name in axes if name and name not in known]
      if unknown:
        raise ValueError(
          f"No rule for the logical axes {unknown}; add them to "
          "standard_logical_axis_rules.additional_rules."
        )
      return self.sharding(
        flax_partitioning.logical_to_mesh_axes(
          tuple(axes), self.logical_axis_rules
        )
      )

    return jax.tree.map(
      to_sharding,
      logical_axes,
      is_leaf=lambda x: isinstance(x, PartitionSpec),
    )

  def local_rows(self, batch_size: int) -> list[int]:
    """Returns the examples of a global batch that this process reads.

    They are the rows of its devices, which need not be adjacent on a TPU slice.
    Processes that share a copy of the model read the same rows.

    Raises:
      ValueError: if the data axis does not divide the batch, or two processes
        share only some parts of the data axis.
    """
    data_size = self.mesh.shape["data"]
    if batch_size % data_size:
      raise ValueError(
        f"The batch size {batch_size} is not a multiple of the {data_size} "
        "parts of the mesh that divide it: choose another BATCH_SIZE, or raise "
        "partitioning.PjitPartitioner.num_partitions."
      )
    # [data, model] The process that owns each device.
    owner = np.vectorize(lambda d: d.process_index)(self.mesh.devices)
    sizes = collections.Counter(frozenset(row) for row in owner.tolist())
    if sum(map(len, sizes)) > len(np.unique(owner)) or (
      len(set(sizes.values())) > 1
    ):
      raise ValueError(
        f"The {data_size} parts of the data axis belong to the processes "
        f"{[sorted(set(row)) for row in owner.tolist()]}, which do not divide "
        "them evenly: choose another num_partitions."
      )
    is_ours = (owner == jax.process_index()).any(axis=1)
    rows = np.flatnonzero(np.repeat(is_ours, batch_size // data_size))
    return rows.tolist()

  def shard_batch(self, batch: Any) -> Any:
    """Puts this process's part of a batch of numpy arrays on its devices."""
    sharding = self.sharding(self.data_partition_spec)
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )

  def partition(
    self,
    fn: Callable[..., Any],
    in_axis_resources: Any = None,
    out_axis_resources: Any = None,
    donate_argnums: int | Sequence[int] = (),
  ) -> jax.stages.Wrapped:
    """Compiles `fn` for the mesh; logical names inside it are resolved.

    Args:
      fn: The function.
      in_axis_resources: Shardings of its arguments; None keeps the shardings
        that they have.
      out_axis_resources: Shardings of its results; None lets XLA choose.
      donate_argnums: As for `jax.jit`.

    Returns:
      The compiled function.
    """

    @functools.wraps(fn)
    def with_rules(*args):
      with (
        flax_partitioning.axis_rules(self.logical_axis_rules),
        jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh),
      ):
        return fn(*args)

    options = None
    if self.mesh.devices.flat[0].platform == "cpu":
      is_scanned = _has_stacks(in_axis_resources)
      options = _CPU_OPTIONS | (_SCANNED_OPTIONS if is_scanned else {})
    return jax.jit(
      with_rules,
      in_shardings=in_axis_resources,
      out_shardings=out_axis_resources,
      donate_argnums=donate_argnums,
      compiler_options=options,
    )


def _has_stacks(tree: Any) -> bool:
  """Returns whether a tree has layers stacked under one name, `layers`."""
  return any(
    "layers"
    in jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  )
