"""The models of bucle.yaml as engines: adapters that are missing, pauses that a provider asks for, what cannot be."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from chat_peer import Peer

from bucle.core.config import LocalModel, load_project
from bucle.core.errors import BucleError, ConfigError
from bucle.loop.engines import adapters_of, engine_of
from bucle.loop.serving import app_for
from bucle.loop.workspace import Workspace
from bucle.models.endpoint import RateLimited
from bucle.serve.server import BackgroundServer


def opened(folder: Path, models: str) -> Workspace:
    (folder / "bucle.yaml").write_text(f"project: p\nmodels:\n{models}", "utf-8")
    return Workspace.open(folder)


def test_a_missing_adapter_leaves_the_base_and_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "adapter_model.safetensors").write_bytes(b"\0" * 8)
    ws = opened(tmp_path, "  m: {kind: local, path: base, adapters: {good: good, lost: nowhere}}\n")
    model = ws.config.models["m"]
    assert isinstance(model, LocalModel)
    assert "lost" not in adapters_of(ws, model)
    assert "the adapter lost is not served" in caplog.text
    ws.close()


def test_an_engine_that_cannot_serve_a_precision_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bucle.yaml").write_text(
        "project: p\nmodels:\n  m: {kind: local, path: base, engine: transformers, precision: int8}\n", "utf-8")
    with pytest.raises(ConfigError, match="has no `precision: int8`") as caught:
        load_project(tmp_path)
    assert "bucle.yaml:3" in str(caught.value)


def test_vllm_that_is_not_installed_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"\0" * 8)
    ws = opened(tmp_path, "  m: {kind: local, path: base, engine: vllm}\n")
    from bucle.loop.model_steps import node_of

    with pytest.raises(BucleError, match="vLLM is not installed"):
        engine_of(ws, "m", node_of(ws, "m"))
    ws.close()


def test_a_pause_that_a_provider_asks_for_is_kept_for_everybody(tmp_path: Path) -> None:
    def says(messages: object, body: object) -> str:
        raise RateLimited("slow down", retry_after=30)

    peer = Peer(says)
    try:
        ws = opened(tmp_path, f"  far: {{kind: openai, base_url: '{peer.url}', model: m, api_key_env: ''}}\n")
        with BackgroundServer(app_for(ws, None)) as server, httpx.Client(base_url=server.url, timeout=10) as http:
            asked = [http.post("/v1/chat/completions", json={"model": "far", "messages": [
                {"role": "user", "content": "hola"}]}) for _ in range(3)]
        assert [reply.status_code for reply in asked] == [429] * 3
        assert int(asked[2].headers["retry-after"]) > 20
        assert len(peer.asked) == 1, "it was asked again within its pause"
        ws.close()
    finally:
        peer.server.shutdown()
        peer.server.server_close()
