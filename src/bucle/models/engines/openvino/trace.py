"""A causal language model of transformers as an OpenVINO graph that keeps its own keys and values.

The shape that the paged-attention pass of openvino-genai can take: past keys and values as inputs that become state,
reordered by `beam_idx`; one plain scaled_dot_product_attention a layer; an empty initial state for each of them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from bucle.core.errors import ModelUnavailable
from bucle.models.cpu import quiet_libraries
from bucle.models.embedding.library import openvino_quiet

__all__ = ["FAMILIES", "NotConverted", "Shape", "shape_of", "trace"]

FAMILIES = frozenset({"gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3"})
"""`model_type`s whose conversion is tested. Another could trace without an error and answer wrongly past the probes."""
ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles do not depend on how long the text is: the others cannot be traced."""
ATTENTION = "bucle_plain"


class NotConverted(ModelUnavailable):
    """This model cannot run on OpenVINO, and why."""


@dataclass(frozen=True)
class Shape:
    """What a model's cache looks like: for each layer heads of keys and values and their dimensions."""

    layers: int
    heads: int
    keys: int
    values: int


def shape_of(config: Any) -> Shape:
    """The cache of a model with `config` (of transformers). Raises NotConverted for what would be computed wrongly."""
    kind = str(getattr(config, "model_type", ""))
    if kind not in FAMILIES:
        raise NotConverted(f"{kind or 'its'} is not an architecture that Bucle converts to OpenVINO "
                           f"({', '.join(sorted(FAMILIES))}).", "serve it with `engine: transformers`")
    context = int(config.max_position_embeddings)
    layers = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    slides = any(kind != "full_attention" for kind in layers) if layers else True
    if window and slides and int(window) < context:
        raise NotConverted(f"its attention slides over {window} tokens, which paged attention here would ignore.",
                           "serve it with `engine: transformers`")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in ROPES:
        raise NotConverted(f"its rotary embedding ({rope['rope_type']}) changes with the length of the text.",
                           "serve it with `engine: transformers`")
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    return Shape(int(config.num_hidden_layers), heads, width, width)


def trace(model: Any) -> Any:
    """The openvino.Model of `model` (transformers, float32, evaluation mode), weights in float32 and shared with it.
    Raises NotConverted."""
    import torch
    from transformers import AttentionInterface

    shape = shape_of(model.config)
    names = [f"past_key_values.{i}.{what}" for i in range(shape.layers) for what in ("key", "value")]
    batch, width, past = 2, 3, 4
    example = (torch.randint(0, 8, (batch, width)), torch.ones(batch, past + width, dtype=torch.int64),
               torch.arange(past, past + width)[None].repeat(batch, 1), torch.arange(batch),
               *(torch.zeros(batch, shape.heads, past, shape.keys) for _ in names))
    before = model.config._attn_implementation
    AttentionInterface.register(ATTENTION, _attention)
    model.set_attn_implementation(ATTENTION)
    try:
        with warnings.catch_warnings(), torch.no_grad(), quiet_libraries():
            warnings.simplefilter("ignore")  # of tracing: what it fixes is found by the comparison with the model
            graph = openvino_quiet().convert_model(_wrapped(model, shape), example_input=example)
    except NotConverted:
        raise
    except Exception as error:  # a library that refuses an operator raises what it likes
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise NotConverted(f"OpenVINO cannot convert it: {said}", "serve it with `engine: transformers`") from error
    finally:
        model.set_attn_implementation(before)
    _keep_state(graph, names, shape)
    return graph


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None,
               **more: Any) -> tuple[Any, None]:
    import torch

    if odd := [name for name in ("softcap", "s_aux", "position_bias") if more.get(name) is not None]:
        raise NotConverted(f"its attention uses {odd[0]}.", "serve it with `engine: transformers`")
    batch, heads, length, width = key.shape
    if (groups := query.shape[1] // heads) > 1:
        key, value = (one[:, :, None].expand(batch, heads, groups, length, width)
                      .reshape(batch, heads * groups, length, width) for one in (key, value))
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _wrapped(model: Any, shape: Shape) -> Any:
    import torch
    from transformers.cache_utils import DynamicCache, DynamicLayer

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, beam_idx: Any, *past: Any) -> Any:
            cache = DynamicCache()
            for i in range(shape.layers):  # filled directly: updating an empty cache cannot be traced
                layer = DynamicLayer()
                layer.keys, layer.values = (one.index_select(0, beam_idx) for one in past[2 * i:2 * i + 2])
                layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
                cache.layers.append(layer)
            total, width = attention_mask.shape[1], input_ids.shape[1]
            rows = torch.arange(width) + (total - width)
            seen = torch.arange(total)[None, None, None, :] <= rows[None, None, :, None]
            mask = torch.where(seen & attention_mask[:, None, None, :].bool(), 0.0, torch.finfo(torch.float32).min)
            made = self.model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids,
                              past_key_values=cache, use_cache=True)
            return (made.logits, *(one for layer in made.past_key_values.layers for one in (layer.keys, layer.values)))

    return Traced().eval()


def _keep_state(graph: Any, names: list[str], shape: Shape) -> None:
    from openvino._offline_transformations import apply_make_stateful_transformation

    openvino = openvino_quiet()
    op = openvino.opset13
    present = [name.replace("past_key_values", "present") for name in names]
    for port, name in zip(graph.inputs, ["input_ids", "attention_mask", "position_ids", "beam_idx", *names],
                          strict=True):
        port.get_tensor().set_names({name})
        node = port.get_node()
        if name == "beam_idx":
            node.set_element_type(openvino.Type.i32)
        sizes = [-1, shape.heads, -1, shape.keys] if name in names else [-1] if name == "beam_idx" else [-1, -1]
        node.set_partial_shape(openvino.PartialShape(sizes))
    for port, name in zip(graph.outputs, ["logits", *present], strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(graph, dict(zip(names, present, strict=True)))
    # The paged pipeline refuses a state without a beginning: zero tokens, as many rows as the input has.
    rows = op.gather(op.shape_of(graph.input("input_ids"), output_type="i64"), op.constant([0]), op.constant(0))
    for node in graph.get_ordered_ops():
        if node.get_type_name() == "ReadValue":
            sizes = op.concat([rows, op.constant(np.array([shape.heads, 0, shape.keys], dtype=np.int64))], 0)
            node.set_arguments([op.broadcast(op.constant(0.0, dtype=node.get_output_element_type(0)), sizes)])
    graph.validate_nodes_and_infer_types()
