"""Many LoRA adapters over one base model in memory: loaded on demand, the least recently used out."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError
from bucle.models.endpoint import Refused
from bucle.models.folder import checked_folder, read_json

__all__ = ["Adapters", "checked_adapter"]

PLAIN_STARTS = (True, False, "gaussian", "orthogonal", None)
"""`init_lora_weights` that leave the base model as it is; others (PiSSA, OLoRA, LoftQ) change it under all adapters."""


def checked_adapter(folder: Path, name: str) -> Mapping[str, Any]:
    """The configuration of the LoRA adapter in `folder`, looked at without torch. Raises Refused, by name, for one of
    another kind, that is torn, or whose weights are all zero."""
    try:
        folder = checked_folder(folder)
        config = _plain_lora(folder)
        if not _changes_anything(folder / "adapter_model.safetensors"):
            raise Refused("it changes nothing: its weights are all zero", "train it again")
    except BucleError as error:
        raise Refused(f"The adapter {name!r} cannot be used: {error.message}", error.hint) from error
    return config


def _plain_lora(folder: Path) -> Mapping[str, Any]:
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise Refused(f"it is no LoRA adapter ({str(config.get('peft_type', 'no adapter_config.json'))[:50]})",
                      "train it with a technique of this project, or merge it into a model of its own")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        raise Refused(f"it changes the base model itself (init_lora_weights: {config['init_lora_weights']!r})",
                      "convert it to a plain LoRA adapter, or merge it into a model of its own")
    return config


def _changes_anything(path: Path) -> bool:
    """Whether any tensor beside the A matrices, which are random at first, holds something other than zeros."""
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise Refused(f"{path} cannot be read: {str(error).splitlines()[0]}", "copy it again") from error
    return any(any(tensor["data"]) for name, tensor in tensors if "lora_A" not in name)


class Adapters:
    """The adapters of `folders` over `model`, which is changed in place (its linear layers are wrapped; with no adapter
    chosen it answers as before). Used from one thread."""

    def __init__(self, model: Any, folders: Mapping[str, str], limit: int) -> None:
        self._model, self._folders, self._limit = model, dict(folders), limit
        self._peft: Any = None
        self._loaded: OrderedDict[str, str] = OrderedDict()
        self._refused: dict[str, Refused] = {}
        self._current = ""
        self._count = 0

    @property
    def loaded(self) -> tuple[str, ...]:
        """Those in memory, the one used last at the end."""
        return tuple(self._loaded)

    def load(self, name: str, busy: Collection[str]) -> bool:
        """Have `name` in memory: False where its place is taken by adapters that are `busy`. Raises Refused, by name,
        for one that is broken, is for another base model, or changes nothing: it is not tried again."""
        if not name or name in self._loaded:
            if name:
                self._loaded.move_to_end(name)
            return True
        if name in self._refused:
            raise Refused(self._refused[name].message, self._refused[name].hint)
        if len(self._loaded) >= self._limit:
            idle = next((one for one in self._loaded if one not in busy), None)
            if idle is None:
                return False
            self._drop(idle)
        try:
            self._add(name)
        except BucleError as error:
            self._refused[name] = Refused(f"The adapter {name!r} cannot be used: {error.message}", error.hint)
            raise self._refused[name] from error
        return True

    def choose(self, name: str) -> None:
        """Let the model answer with `name` from now on, or alone where that is empty."""
        if name == self._current:
            return
        if name:
            if not self._current:
                self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._loaded[name], inference_mode=True)
        else:
            self._peft.base_model.disable_adapter_layers()
        self._current = name

    def _drop(self, name: str) -> None:
        if self._current == name:
            self.choose("")
        self._peft.delete_adapter(self._loaded.pop(name))
        self._peft.base_model.disable_adapter_layers()
        self._current = ""

    def _add(self, name: str) -> None:
        import torch
        from peft import PeftModel
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = checked_folder(Path(self._folders[name]))
        _plain_lora(folder)
        try:
            weights = load_file(str(folder / "adapter_model.safetensors"))
        except (OSError, SafetensorError) as error:
            raise Refused(f"{folder}/adapter_model.safetensors cannot be read: {str(error).splitlines()[0]}",
                          "copy it again") from error
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise Refused("its weights hold values that are no numbers", "train it again")
        if not any(bool(torch.count_nonzero(tensor)) for key, tensor in weights.items() if "lora_A" not in key):
            raise Refused("it changes nothing: its weights are all zero", "train it again")
        self._count += 1
        inner = f"a{self._count}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT's advice to trainers
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(self._model, str(folder), adapter_name=inner,
                                                           local_files_only=True)
                else:
                    self._peft.load_adapter(str(folder), adapter_name=inner, local_files_only=True)
            kept = {key.replace(f".{inner}", "") for key, _ in self._peft.named_parameters() if f".{inner}" in key}
            if missing := sorted(set(weights) - kept):
                raise Refused(f"it does not fit this base model: {missing[0]} has no place",
                              "load it on the base model it was trained on")
        except (BucleError, RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            if self._peft is not None and inner in self._peft.peft_config:
                self._peft.delete_adapter(inner)
            self._rest()
            if isinstance(error, BucleError):
                raise
            raise Refused(f"it does not fit this base model: {str(error).strip().splitlines()[0][:200]}",
                          "load it on the base model it was trained on") from error
        self._model.eval()
        self._loaded[name] = inner
        self._rest()

    def _rest(self) -> None:
        """No adapter is chosen: loading one chooses it, and whatever was chosen before is to be chosen again."""
        if self._peft is not None:
            self._peft.base_model.disable_adapter_layers()
        self._current = ""
