"""T5 1.1 weights from an int8 ONNX export of a Hugging Face model.

The exporter names every weight matrix after a counter (`onnx::MatMul_1022`), so
a tensor's own name does not say which parameter it is. The node that reads the
tensor does: it is named after its module, as in
`/enc/block.0/layer.0/SelfAttention/q/MatMul_quant`.
"""

from collections.abc import Iterator

from etils import epath
import numpy as np
import onnx
from onnx import numpy_helper

from prompt_tuning.interop import parameter_names
from prompt_tuning.models.t5.config import T5Config
from t5x.files import parsing

_QUANTIZED = "_quantized"


def read_onnx_t5(
  encoder_path: epath.PathLike,
  decoder_path: epath.PathLike,
  config: T5Config,
) -> dict[str, np.ndarray]:
  """Reads and dequantises a T5 1.1 from its encoder's and decoder's graphs.

  Args:
    encoder_path: The ONNX file of the encoder.
    decoder_path: The ONNX file of the decoder and the output head.
    config: The sizes of the model.

  Returns:
    T5X's name -> float32 array, for every parameter of the network.

  Raises:
    ValueError: if a file is not an ONNX file or refers to others, a tensor of
      the graphs is not a parameter, two tensors claim one parameter and differ,
      or names or shapes are not the expected ones.
  """
  expected = parameter_names.shapes(config)
  names = {
    parameter_names.hugging_face_name(x, config).removesuffix(".weight"): x
    for x in expected
  }
  params: dict[str, np.ndarray] = {}
  for stack, path in (("encoder", encoder_path), ("decoder", decoder_path)):
    for module, array in _weights(path):
      name = names.get(_module_name(stack, module))
      if name is None:
        raise ValueError(
          f"{path}: expected a module of a T5 1.1 {stack}, got {module!r}."
        )
      if name.endswith("rel_embedding"):
        array = array.T  # Hugging Face: [buckets, heads].
      # Both graphs carry the token embedding.
      if name in params and not np.array_equal(params[name], array):
        raise ValueError(f"{path}: a second, different tensor for {name}.")
      params[name] = np.ascontiguousarray(array)
  got = {name: array.shape for name, array in params.items()}
  if problems := parameter_names.differences(expected, got):
    raise ValueError(
      f"{encoder_path} and {decoder_path}: {'; '.join(problems)}."
    )
  return params


def _module_name(stack: str, module: str) -> str:
  """Returns Hugging Face's name of a module.

  Args:
    stack: The graph's stack, "encoder" or "decoder".
    module: Its path there, under any prefix:
      "enc/block.0/layer.0/SelfAttention/q".
  """
  before, block, path = module.rpartition("block.")
  leaf = module.rpartition("/")[2]
  if block and (not before or before.endswith("/")):
    return f"{stack}.{block}{path}".replace("/", ".")
  if leaf in ("embed_tokens", "shared"):
    return "shared"
  return leaf if leaf == "lm_head" else f"{stack}.{leaf}"


def _weights(path: epath.PathLike) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (module path, float32 weight) for every weight of a graph.

  Raises:
    ValueError: if it is another kind of file, a tensor is not read by exactly
      one node, or its quantisation is not one scale and one zero point.
  """
  with parsing.of(path, "an ONNX file of a T5 1.1"):
    # Tensors in other files would be read from any path that this file names.
    graph = onnx.load(path, load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for tensor in tensors.values():
      if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError(f"Tensor {tensor.name} is in another file.")
    unread = set(tensors)
    for node in graph.node:
      for name in node.input:
        if name not in tensors or not name.endswith((_QUANTIZED, ".weight")):
          continue
        if name not in unread:
          raise ValueError(f"Tensor {name} is read by more than one node.")
        unread.discard(name)
        array = numpy_helper.to_array(tensors[name])
        if name.endswith(_QUANTIZED):
          stem = name.removesuffix(_QUANTIZED)
          parts = f"{stem}_scale", f"{stem}_zero_point"
          if missing := [part for part in parts if part not in tensors]:
            raise ValueError(
              f"Tensor {name} has no {' and no '.join(missing)}."
            )
          unread.difference_update(parts)
          scale, zero_point = (numpy_helper.to_array(tensors[p]) for p in parts)
          if scale.ndim or zero_point.ndim:
            raise ValueError(
              "Expected one scale and one zero point per tensor, got shapes"
              f" {scale.shape} and {zero_point.shape} for {name}."
            )
          # As ONNX defines it, in float32.
          array = (array.astype(np.float32) - np.float32(zero_point)) * scale
        module = node.name.strip("/").rpartition("/")[0]
        yield module, array.astype(np.float32, copy=False)
    if unread:
      raise ValueError(
        f"No node reads as a weight: {', '.join(sorted(unread))}."
      )
