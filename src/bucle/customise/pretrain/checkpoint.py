"""Checkpoints of a training run: one safetensors file, replaced in one step, so that a kill leaves the old or
the new."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["load_checkpoint", "save_checkpoint"]

NAME = "checkpoint.safetensors"


def save_checkpoint(work: Path, key: str, parameters: Mapping[str, Any], optimizers: Sequence[Any],
                    state: Mapping[str, Any]) -> None:
    """Write parameters, the optimizers' tensors and `state` (JSON) as `work/checkpoint.safetensors`."""
    from safetensors.torch import save

    tensors = {f"model/{name}": tensor.detach() for name, tensor in parameters.items()}
    for number, optimizer in enumerate(optimizers):
        for index, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{slot}": tensor for slot, tensor in slots.items()}
    data = save(tensors, metadata={"key": key, "state": json.dumps(state)})
    work.mkdir(parents=True, exist_ok=True)
    temporary = work / (NAME + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(work / NAME)


def load_checkpoint(work: Path, key: str, parameters: Mapping[str, Any],
                    optimizers: Sequence[Any]) -> dict[str, Any] | None:
    """Put the checkpoint's tensors back in place and return its state; None where there is none for `key`."""
    from safetensors import SafetensorError, safe_open

    path = work / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError:
        return None
    import torch

    with torch.no_grad():
        for name, tensor in parameters.items():
            tensor.copy_(tensors[f"model/{name}"])
    for number, optimizer in enumerate(optimizers):
        slots: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer/{number}/"):
                _, _, index, slot = name.split("/")
                slots.setdefault(int(index), {})[slot] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state: dict[str, Any] = json.loads(metadata["state"])
    return state
