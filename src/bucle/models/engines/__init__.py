"""Everything that answers (bucle.core.engine.ChatEngine): processes of this machine, vLLM, providers."""
