"""Graphs in int8, with nodes like those of an exported T5."""

import pathlib

import numpy as np

# Operation, name, inputs.
NODES = [
  ("Gather", "/enc/embed_tokens/Gather", ["onnx::7_quantized", "i"]),
  ("MatMulInteger", "/enc/q/MatMul_quant", ["x", "w_quantized", "w_zero"]),
  ("Mul", "/enc/norm/Mul_1", ["enc.norm.weight", "hidden"]),
]
TENSORS = {
  "w_quantized": np.array([[-128, 127]], np.int8),
  "w_scale": np.float32(0.5),
  "w_zero_point": np.int8(3),
  "onnx::7_quantized": np.array([[0, 255]], np.uint8),
  "onnx::7_scale": np.float32(0.25),
  "onnx::7_zero_point": np.uint8(100),
  "enc.norm.weight": np.float32([2, 3]),
}


def save(path: pathlib.Path, nodes=NODES, tensors=TENSORS) -> None:
  """Writes a graph to a file."""
  import onnx

  graph = onnx.helper.make_graph(
    [
      onnx.helper.make_node(op, inputs, [f"{name}_output"], name=name)
      for op, name, inputs in nodes
    ],
    "encoder",
    [],
    [],
    initializer=[
      onnx.numpy_helper.from_array(np.asarray(array), name)
      for name, array in tensors.items()
    ],
  )
  onnx.save(onnx.helper.make_model(graph), path)
