"""Weights of linear layers in 8 bits, a scale for each output: OpenVINO multiplies them without unpacking."""

from __future__ import annotations

from typing import Any

import numpy as np

from bucle.models.embedding.library import openvino_quiet

__all__ = ["to_int8"]


def to_int8(graph: Any) -> int:
    """Replace in `graph` (an openvino.Model) every constant matrix that is multiplied by symmetric int8 and scales;
    returns how many. Largest error of a weight: its row's largest magnitude / 254."""
    op = openvino_quiet().opset13
    done = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        constant = node.input(1).get_source_output().get_node()
        if constant.get_type_name() != "Constant" or len(constant.shape) != 2:
            continue
        weights = np.asarray(constant.data, dtype=np.float32)
        scale = np.abs(weights).max(axis=1, keepdims=True) / 127
        scale[scale == 0] = 1.0
        small = np.clip(np.round(weights / scale), -127, 127).astype(np.int8)
        packed = op.multiply(op.convert(op.constant(small, dtype=np.int8), "f32"), op.constant(scale))
        node.input(1).replace_source_output(packed.output(0))
        done += 1
    return done
