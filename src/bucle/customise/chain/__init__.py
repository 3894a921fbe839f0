"""Chains: several steps as one candidate, each a span of one trace. docs/chains.md says how to write one."""

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
