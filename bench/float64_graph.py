"""Evaluates a small quantized convolutional network (QDQ form) in float64 with numpy: the judge where two int8 engines differ."""

from collections.abc import Callable
from typing import Any

import numpy as np

from onnx_file import Attribute, Graph, Node

Array = np.ndarray
Attributes = dict[str, Attribute]


def evaluate(graph: Graph, x: Array) -> Array:
    """The first output for one input batch; ValueError on an operator that is not in OPERATORS."""
    values: dict[str, Any] = {"": None}
    for name, tensor in graph.initializers.items():
        values[name] = tensor.astype(np.float64) if tensor.dtype == np.float32 else tensor
    values[graph.inputs[0]] = x.astype(np.float64)
    for node in graph.nodes:
        values[node.outputs[0]] = run(node, [values[name] for name in node.inputs])
    return values[graph.outputs[0]]


def run(node: Node, inputs: list[Array | None]) -> Array:
    """One node."""
    if node.op not in OPERATORS:
        raise ValueError(f"operator {node.op} ({node.outputs[0]}) is not known to the float64 judge")
    return OPERATORS[node.op](node.attributes, *inputs)


def along(parameter: Array, x: Array, axis: int) -> Array:
    """A scalar as it is, a vector shaped to broadcast along `axis` of x."""
    if parameter.size == 1:
        return parameter.reshape(())
    shape = [1] * x.ndim
    shape[axis] = parameter.size
    return parameter.reshape(shape)


def quantize(attributes: Attributes, x: Array, scale: Array, zero_point: Array | None = None) -> Array:
    """QuantizeLinear: round half to even, add the zero point, saturate."""
    axis = attributes.get("axis", 1)
    zero = np.zeros((), np.uint8) if zero_point is None else along(zero_point, x, axis)
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / along(scale, x, axis)) + zero, limits.min, limits.max).astype(zero.dtype)


def dequantize(attributes: Attributes, q: Array, scale: Array, zero_point: Array | None = None) -> Array:
    """DequantizeLinear."""
    axis = attributes.get("axis", 1)
    zero = 0 if zero_point is None else along(zero_point, q, axis).astype(np.float64)
    return (q.astype(np.float64) - zero) * along(scale, q, axis)


def windows(x: Array, kernel: list[int], attributes: Attributes, fill: float) -> Array:
    """[N, C, H, W] → [N, C, H', W', kh, kw] for the given padding and strides; dilation must be 1."""
    if any(d != 1 for d in attributes.get("dilations", [1])) or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("dilation and auto_pad are not known to the float64 judge")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    down, across = attributes.get("strides", [1, 1])
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))[:, :, ::down, ::across]


def conv(attributes: Attributes, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Conv, two spatial axes, one group."""
    if attributes.get("group", 1) != 1:
        raise ValueError("grouped convolution is not known to the float64 judge")
    view = windows(x, list(weight.shape[2:]), attributes, 0.0)
    y = np.tensordot(view, weight, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2)
    return y if bias is None else y + bias.reshape(1, -1, 1, 1)


def max_pool(attributes: Attributes, x: Array) -> Array:
    """MaxPool, two spatial axes, of real or quantized values."""
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return windows(x, attributes["kernel_shape"], attributes, lowest).max((4, 5))


def gemm(attributes: Attributes, a: Array, b: Array, c: Array | None = None) -> Array:
    """Gemm."""
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    y = attributes.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + attributes.get("beta", 1.0) * c


def flatten(attributes: Attributes, x: Array) -> Array:
    """Flatten."""
    axis = attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


def reshape(attributes: Attributes, x: Array, shape: Array) -> Array:
    """Reshape; a 0 copies the input's extent."""
    keep = not attributes.get("allowzero", 0)
    return x.reshape([x.shape[i] if keep and extent == 0 else int(extent) for i, extent in enumerate(shape)])


OPERATORS: dict[str, Callable[..., Array]] = {
    "QuantizeLinear": quantize,
    "DequantizeLinear": dequantize,
    "Conv": conv,
    "MaxPool": max_pool,
    "Gemm": gemm,
    "Flatten": flatten,
    "Reshape": reshape,
    "MatMul": lambda _, a, b: a @ b,
    "Add": lambda _, a, b: a + b,
    "Relu": lambda _, x: np.maximum(x, 0),
    "Clip": lambda _, x, low=None, high=None: np.clip(x, low, high),
    "Transpose": lambda attributes, x: x.transpose(attributes.get("perm")),
    "Constant": lambda attributes: attributes["value"],
    "Identity": lambda _, x: x,
}
