"""Chains: several steps as one candidate, each a span of one trace. docs/chains.md says how to write one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bucle.customise.chain.cache import StepCache
    from bucle.customise.chain.load import chain, load_chain, read_chain, step
    from bucle.customise.chain.result import ChainEnv
    from bucle.customise.chain.run import Chain
    from bucle.customise.chain.spec import ChainSpec
    from bucle.customise.chain.technique import ChainTechnique

__all__ = [
    "Chain",
    "ChainEnv",
    "ChainSpec",
    "ChainTechnique",
    "StepCache",
    "chain",
    "load_chain",
    "read_chain",
    "step",
]

_OF = {"Chain": "run", "ChainEnv": "result", "ChainSpec": "spec", "ChainTechnique": "technique", "StepCache": "cache",
       "chain": "load", "load_chain": "load", "read_chain": "load", "step": "load"}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is used: the ladder needs the technique's name, and not the steps."""
    if name not in _OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_OF[name]}"), name)
