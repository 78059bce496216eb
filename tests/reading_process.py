"""Reads a model as one of several processes, and prints what it got.

  python reading_process.py CHECKPOINT ADDRESS COUNT INDEX

Each array is divided by its last axis. The line is JSON: the fingerprint, and
parameter -> [[start, stop] of the last axis, SHA-256 of that part].
"""

import hashlib
import json
import sys

import jax
import numpy as np

from t5x import checkpoints


def main(path, address, count, index):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(address, int(count), int(index))
  checkpoint = checkpoints.open_checkpoint(path)
  mesh = jax.make_mesh((jax.device_count(),), ("part",))

  def sharding(shape):
    axes = [None] * (len(shape) - 1) + ["part"]
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))

  read = checkpoint.read(
    {
      name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x.shape))
      for name, x in checkpoint.arrays.items()
    }
  )
  parts = {}
  for name, array in read.items():
    (shard,) = array.addressable_shards
    part = shard.index[-1]
    digest = hashlib.sha256(np.asarray(shard.data).tobytes()).hexdigest()
    parts[name] = [[part.start or 0, part.stop], digest]
  print(json.dumps({"fingerprint": checkpoint.fingerprint, "parts": parts}))


if __name__ == "__main__":
  main(*sys.argv[1:])
