"""The pipelines of one base model: itself and its adapters, opened on demand, the least recently used closed."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError, ModelUnavailable
from bucle.models.engines.host import HostSpec
from bucle.models.engines.openvino.apart import converted_apart
from bucle.models.engines.openvino.convert import precision_of
from bucle.models.engines.openvino.pipeline import Paged, Spoilt, Work, block_bytes
from bucle.models.folder import read_json

__all__ = ["Lane", "Lanes"]


class Lane:
    """An open pipeline of `adapter` (empty: the base model)."""

    def __init__(self, adapter: str, paged: Paged) -> None:
        self.adapter, self.paged = adapter, paged


class Lanes:
    """Pipelines by adapter. The base model's is opened at once and stays; of the others at most
    `spec.adapters_loaded`, each with its share of the cache (`blocks`). One thread may use it."""

    def __init__(self, spec: HostSpec, folder: Path, threads: int) -> None:
        self._spec, self._folder, self._threads = spec, folder, threads
        self._root = Path(spec.cached) if spec.cached else None
        self._precision = precision_of(folder, spec.precision)
        self._open: OrderedDict[str, Lane] = OrderedDict()
        self._lock = threading.Lock()
        self._made: dict[str, Paged | BucleError] = {}
        self._failed: dict[str, BucleError] = {}
        self._loader: threading.Thread | None = None
        base = converted_apart(folder, self._precision, root=self._root)
        self.meta: dict[str, Any] = read_json(base / "meta.json")
        shares = 1 + min(len(spec.adapters), spec.adapters_loaded)
        self.blocks = max(4, int(spec.cache_gb * 2**30 / shares / block_bytes(self.meta)))
        self._open[""] = Lane("", self._pipeline(""))

    @staticmethod
    def needs(work: Work) -> int:
        """As Paged.needs."""
        return Paged.needs(work)

    def loaded(self) -> list[str]:
        """The adapters in memory."""
        return [name for name in list(self._open) if name]

    def get(self, adapter: str, busy: set[str]) -> Lane | None:
        """The pipeline of `adapter`; None while it is being opened, or waits for one of the `busy` to end. Raises what
        opening it raised."""
        with self._lock:
            for name, made in self._made.items():
                self._loader = None
                if isinstance(made, Paged):
                    self._open[name] = Lane(name, made)
                else:
                    self._failed[name] = made
            self._made.clear()
        if error := self._failed.pop(adapter, None):
            raise error
        if adapter in self._open:
            self._open.move_to_end(adapter)
            return self._open[adapter]
        if self._loader is not None:
            return None
        if adapter and len(self.loaded()) >= max(1, self._spec.adapters_loaded):
            idle = next((name for name in self._open if name and name not in busy), None)
            if idle is None:
                return None
            self.drop(self._open[idle])
        self._loader = threading.Thread(target=self._load, args=(adapter,), name=f"open {adapter}", daemon=True)
        self._loader.start()
        return None

    def drop(self, lane: Lane) -> None:
        """Close `lane`."""
        if self._open.get(lane.adapter) is lane:
            del self._open[lane.adapter]
        lane.paged.close()

    def close(self) -> None:
        """Close all."""
        if self._loader is not None:
            self._loader.join()
        for lane in list(self._open.values()):
            self.drop(lane)

    def _load(self, adapter: str) -> None:
        try:
            made: Paged | BucleError = self._pipeline(adapter)
        except BucleError as error:
            made = error
        except Exception as error:  # whatever the libraries stumble over in an adapter that somebody else wrote
            said = (str(error).strip().splitlines() or [""])[0][:200]
            made = ModelUnavailable(f"The adapter {adapter} cannot be loaded: {type(error).__name__}: {said}",
                                    "check that it was trained on this base model")
        with self._lock:
            self._made[adapter] = made

    def _pipeline(self, adapter: str) -> Paged:
        path = Path(self._spec.adapters[adapter]) if adapter else None
        for last in (False, True):
            folder = converted_apart(self._folder, self._precision, adapter=path, root=self._root)
            try:
                return Paged(folder, blocks=self.blocks, threads=self._threads, sequences=self._spec.parallel)
            except Spoilt:  # the disk's fault: made again, once
                if last:
                    raise
                shutil.rmtree(folder, ignore_errors=True)
        raise AssertionError("unreachable")
