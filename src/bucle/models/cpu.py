"""What this processor is good at, and how torch is told to use it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["bf16_is_fast", "default_threads", "prepare_torch", "quiet_libraries"]

# From malloc.h of the GNU C library: parameters of mallopt().
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


@cache
def bf16_is_fast() -> bool:
    """Whether matrix products in bfloat16 run in hardware (AVX512_BF16 or AMX); elsewhere they can be 40
    times slower. Linux says so itself; elsewhere torch is asked."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
            line = next((line for line in flags.splitlines() if line.startswith("flags")), "")
            return not {"avx512_bf16", "amx_bf16", "amx_tile"}.isdisjoint(line.split())
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx_tile"))


def default_threads() -> int:
    """`BUCLE_THREADS` (`threads:` in bucle.yaml is put there); without it the cores this process may use, at most 8:
    small models gain nothing beyond."""
    asked = os.environ.get("BUCLE_THREADS", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores))


@cache
def _keep_memory() -> bool:
    """Tell the C library to keep freed memory for reuse: training frees and asks for the same blocks every
    step.

    The same as MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=-1 in the environment, without a restart.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def prepare_torch(threads: int | None = None) -> int:
    """Set torch's threads (all of this process's, `default_threads()` where None) and return them."""
    # Idle OpenMP threads must sleep, not spin: with another process on the cores, spinning made two threads four times
    # slower than sleeping ones (28.7 s against 7.7 s; 5.1 s with one thread). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    chosen = threads or default_threads()
    if torch.get_num_threads() != chosen:
        torch.set_num_threads(chosen)
    _keep_memory()
    return chosen


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """No progress bars nor advice from transformers and datasets inside: Bucle shows its own progress."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
