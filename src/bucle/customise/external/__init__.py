"""Another library's chain as a candidate, unchanged: a LangChain Runnable, a LlamaIndex query engine, a function."""

from bucle.customise.external.technique import ExternalTechnique

__all__ = ["ExternalTechnique"]
