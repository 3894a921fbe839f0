"""A graph's matrices in fewer bits: bfloat16, int8 with a scale a row, int4 with a scale for each group of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bucle.models.embedding.library import openvino_quiet

__all__ = ["BYTES", "compress"]

BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.01, "int4": 0.53}
"""Bytes a stored weight takes, scales included (int4 with groups of 128; embeddings and head have 8 bits)."""
GROUPS = (128, 64, 32)
CLIPS = (1.0, 0.93, 0.86, 0.8)
"""Shares of a group's largest magnitude tried as int4's range: the one of the least squared error is kept."""


def compress(graph: Any, precision: str) -> int:
    """Replace in `graph` (an openvino.Model) every constant matrix that is multiplied or looked up in; returns the
    greatest common divisor of the widths (how activations may be grouped), 0 where nothing was replaced.

    int8: symmetric, largest error of a weight its row's largest magnitude / 254. int4: symmetric in groups of 128, 64
    or 32 along the input, whichever divides it; embeddings and the head stay in 8 bits, and so does a matrix that no
    group divides. One matrix used twice (tied embeddings) is stored once.
    """
    if precision == "fp32":
        return 0
    openvino = openvino_quiet()
    made: dict[str, Any] = {}
    width = 0
    nodes = [node for node in graph.get_ordered_ops() if node.get_type_name() in ("MatMul", "Gather")]
    looked_up = {node.input(0).get_source_output().get_node().get_friendly_name()
                 for node in nodes if node.get_type_name() == "Gather"}
    for node in nodes:
        product = node.get_type_name() == "MatMul"
        constant = node.input(1 if product else 0).get_source_output().get_node()
        if (constant.get_type_name() != "Constant" or len(constant.shape) != 2
                or constant.get_element_type() != openvino.Type.f32):
            continue
        across = product and not node.get_attributes()["transpose_b"]  # GPT-2 keeps [in, out]
        name = constant.get_friendly_name()
        key = f"{name} {across}"
        if key not in made:
            weights = np.asarray(constant.data, dtype=np.float32)
            weights = np.ascontiguousarray(weights.T) if across else weights
            head = name in looked_up or (product and _is_head(node))
            made[key] = _PACK["int8" if precision == "int4" and head else precision](weights)
            if product:
                width = int(np.gcd(width, weights.shape[1]))
        node.input(1 if product else 0).replace_source_output(made[key].output(0))
        if across:
            _transpose(graph, node)
    graph.validate_nodes_and_infer_types()
    return width


def _is_head(node: Any) -> bool:
    return any(target.get_node().get_type_name() == "Result" for target in node.output(0).get_target_inputs())


def _transpose(graph: Any, node: Any) -> None:
    """MatMul(x, W) becomes MatMul(x, Wt, transposed), the form that small weights are multiplied in."""
    op = openvino_quiet().opset13
    fresh = op.matmul(node.input(0).get_source_output(), node.input(1).get_source_output(), False, True)
    names = node.output(0).get_tensor().get_names()
    for target in list(node.output(0).get_target_inputs()):
        target.replace_source_output(fresh.output(0))
    if names:
        fresh.output(0).get_tensor().set_names(names)


def _bf16(weights: np.ndarray) -> Any:
    openvino = openvino_quiet()
    op = openvino.opset13
    bits = weights.view(np.uint32)
    near = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)  # to the nearest, ties to even
    tensor = openvino.Tensor(near, openvino.Shape(list(weights.shape)), openvino.Type.bf16)
    return op.convert(op.constant(tensor, shared_memory=False), "f32")


def _int8(weights: np.ndarray) -> Any:
    op = openvino_quiet().opset13
    scale = np.abs(weights).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1.0
    small = np.clip(np.round(weights / scale), -127, 127).astype(np.int8)
    return op.multiply(op.convert(op.constant(small, dtype=np.int8), "f32"), op.constant(scale.astype(np.float32)))


def _int4(weights: np.ndarray) -> Any:
    rows, columns = weights.shape
    group = next((size for size in GROUPS if columns % size == 0), 0)
    if not group:
        return _int8(weights)
    openvino = openvino_quiet()
    op = openvino.opset13
    parts = weights.reshape(rows, columns // group, group)
    most = np.abs(parts).max(axis=2, keepdims=True)
    most[most == 0] = 1.0
    scale, least = most / 7, np.full(most.shape, np.inf, dtype=np.float32)
    for clip in CLIPS:
        tried = most * np.float32(clip / 7)
        error = np.square(np.clip(np.round(parts / tried), -8, 7) * tried - parts).sum(axis=2, keepdims=True)
        scale, least = np.where(error < least, tried, scale), np.minimum(error, least)
    scale = scale.astype(np.float16)
    tiny = scale == 0
    scale[tiny] = np.float16(6e-8)
    flat = np.clip(np.round(parts / scale.astype(np.float32)), -8, 7).astype(np.int8).reshape(-1)
    packed = ((flat[0::2] & 15) | ((flat[1::2] & 15) << 4)).astype(np.uint8)
    tensor = openvino.Tensor(packed, openvino.Shape(list(parts.shape)), openvino.Type.i4)
    product = op.multiply(op.convert(op.constant(tensor, shared_memory=False), "f16"), op.constant(scale))
    return op.convert(op.reshape(product, op.constant(np.array([rows, columns])), False), "f32")


_PACK: dict[str, Callable[[np.ndarray], Any]] = {"bf16": _bf16, "int8": _int8, "int4": _int4}
