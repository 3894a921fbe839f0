"""Rerankers: a cross-encoder on OpenVINO against sentence-transformers' own scores; /rerank over a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucle.core.config import RerankerModel
from bucle.core.errors import BadInput, ConfigError, ModelUnavailable, UpstreamTimeout
from bucle.core.ports import Reranker
from bucle.models.embedding.remote import RemoteEncoder
from bucle.models.encoder import encoder_folder, shared_encoder
from bucle.models.rerank import RemoteReranker, open_reranker

Answer = Callable[[str, dict[str, Any]], Any]
"""Path and body to a reply: an object, or (status, object)."""


@contextmanager
def service(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said = answer(self.path, body)
            status, value = said if isinstance(said, tuple) else (200, said)
            data = json.dumps(value).encode()
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                return  # the caller has given up

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def remote(url: str, **more: Any) -> RemoteReranker:
    return RemoteReranker("judge", url, "m", "", 5, 0, **more)


def test_scores_come_back_in_the_order_of_the_passages() -> None:
    asked = []

    def answer(path: str, body: dict[str, Any]) -> Any:
        asked.append((path, body))
        rows = [{"index": i, "relevance_score": float(len(text))} for i, text in enumerate(body["documents"])]
        return {"results": rows[::-1]}

    with service(answer) as url:
        reranker = open_reranker(RerankerModel(kind="reranker", base_url=url, model="m", api_key_env=""))
        assert isinstance(reranker, Reranker)
        assert reranker.score("¿qué?", ["abc", "a", "ab"]) == [3, 1, 2]
        assert asked[0][0] == "/v1/rerank"
        assert {name: asked[0][1][name] for name in ("model", "query", "documents")} == {
            "model": "m", "query": "¿qué?", "documents": ["abc", "a", "ab"]}
        assert reranker.score("q", []) == []
        assert reranker.score("\ud800?", ["", "\ud800", "x" * 100_000]) == [1, 1, 20_000]
        texts = ["x" * n for n in range(1, 8)]
        assert remote(url, batch=2).score("q", texts) == [1, 2, 3, 4, 5, 6, 7]
        with pytest.raises(BadInput, match="question"):
            reranker.score("  ", ["a"])


@pytest.mark.parametrize("reply", [
    {"results": [{"index": 0, "score": 1.0}]},
    {"results": [{"index": 0, "score": 1.0}, {"index": 0, "score": 2.0}]},
    {"results": [{"index": 0, "score": 1.0}, {"index": 7, "score": 2.0}]},
    {"results": [{"index": 0, "score": 1.0}, {"index": 1, "score": "high"}]},
    {"results": [{"index": 0, "score": 1.0}, {"index": 1, "score": float("nan")}]},
    {"results": "none"},
    {"data": [3, 4]},
    {},
])
def test_a_reply_without_a_score_for_each_is_refused(reply: Any) -> None:
    with service(lambda path, body: reply) as url, pytest.raises(ModelUnavailable, match="judge answered"):
        remote(url).score("q", ["a", "b"])


def test_score_under_another_name_and_refusals() -> None:
    with service(lambda path, body: {"data": [{"index": 1, "score": 2}, {"index": 0, "score": 1}]}) as url:
        assert remote(url).score("q", ["a", "b"]) == [1, 2]
    with service(lambda path, body: (404, {"error": "no such model"})) as url, \
            pytest.raises(ModelUnavailable, match="404"):
        remote(url).score("q", ["a"])
    held = threading.Event()
    with service(lambda path, body: held.wait(3) and {}) as url, pytest.raises(UpstreamTimeout, match="within"):
        RemoteReranker("judge", url, "m", "", 0.2, 0).score("q", ["a"])
    held.set()


def vectors(body: dict[str, Any], width: int = 3) -> dict[str, Any]:
    rows = [{"index": i, "embedding": [float(len(text)), 1.0, *[0.5] * (width - 2)]}
            for i, text in enumerate(body["input"])]
    return {"data": rows[::-1]}


def encoder(folder: Path, url: str, **more: Any) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "remote.json").write_text(json.dumps({"base_url": url, "model": "far", "api_key_env": "", **more}))
    return folder


def test_a_folder_with_remote_json_is_an_encoder(tmp_path: Path) -> None:
    with service(lambda path, body: vectors(body)) as url:
        far = shared_encoder(encoder_folder(encoder(tmp_path / "e", url)))
        made = far.embed_array(["aaaa", "b", "aaaa"])
        assert made.shape == (3, 3) == (3, far.dimensions)
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
        assert (made[0] == made[2]).all()
        assert made[0] @ far.embed_alone(["aaaa"])[0] == pytest.approx(1)
        assert len(far.identity) == 64
        assert far.embed_array(["", "\ud800"]).shape == (2, 3)
        wrong = RemoteEncoder(encoder(tmp_path / "f", url, dimensions=5), max_retries=0)
        with pytest.raises(ModelUnavailable, match="3 dimensions instead of 5"):
            wrong.embed(["a"])
        called = RemoteEncoder(encoder(tmp_path / "h", url + "/nowhere", name="lejano"), max_retries=0)
        assert (called.name, called._client.name) == ("far", "lejano")  # advice names what bucle.yaml calls it
    with pytest.raises(ConfigError, match="timeout_s"):
        RemoteEncoder(encoder(tmp_path / "g", url, timeout_s=-1))


def test_a_time_out_half_way_loses_nothing_that_was_embedded(tmp_path: Path) -> None:
    held, slow, asked = threading.Event(), [True], []

    def answer(path: str, body: dict[str, Any]) -> Any:
        if slow[0] and "t7" in body["input"]:
            held.wait(5)
        asked.extend(body["input"])
        return vectors(body)

    with service(answer) as url:
        folder = encoder(tmp_path / "e", url, timeout_s=0.6)
        texts = [f"t{n}" for n in range(12)]
        far = RemoteEncoder(folder, cache=tmp_path / "v.db", max_retries=0, batch=1)
        with pytest.raises(UpstreamTimeout, match="texts were embedded, and kept"):
            far.embed(texts)
        held.set()
        slow[0] = False
        before = set(asked) - {"t7"}
        assert len(before) >= 7
        asked.clear()
        assert len(far.embed(texts)) == 12
        assert set(asked).isdisjoint(before)


def test_embeddings_that_name_a_text_twice_are_refused(tmp_path: Path) -> None:
    twice = {"data": [{"index": 0, "embedding": [1.0, 0.0]}, {"index": 0, "embedding": [0.0, 1.0]}]}
    with service(lambda path, body: twice) as url:
        far = RemoteEncoder(encoder(tmp_path / "e", url), max_retries=0)
        with pytest.raises(ModelUnavailable, match="one for each"):
            far.embed(["a", "b"])


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder of random weights with the packaged tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("cross")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(), local_files_only=True)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(out)
    BertForSequenceClassification(BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=1, initializer_range=0.5)).save_pretrained(out)
    return out


@pytest.mark.torch
def test_a_cross_encoder_scores_as_sentence_transformers(cross: Path, tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import CrossEncoder

    from bucle.models import rerank

    monkeypatch.setenv("BUCLE_CACHE", str(tmp_path))
    monkeypatch.setattr(rerank, "bf16_is_fast", lambda: False)
    reranker = rerank.CrossEncoderReranker(cross, threads=2)
    texts = ["Invoices are paid within 30 days.", "word " * 200, "", "El plazo es de 30 días 🙂"]
    scores = reranker.score("When are invoices paid?", texts)
    own = CrossEncoder(str(cross), device="cpu", local_files_only=True).predict(
        [("When are invoices paid?", text) for text in texts])
    np.testing.assert_allclose(scores, own, atol=1e-3)
    assert len(set(scores)) == 4
    assert reranker.score("When are invoices paid?", texts[::-1])[::-1] == scores
    assert list(tmp_path.glob("openvino/*-pairs-*/model.xml"))
    monkeypatch.setenv("BUCLE_CACHE", "/proc/none")
    np.testing.assert_allclose(rerank.CrossEncoderReranker(cross).score("When are invoices paid?", texts), own,
                               atol=1e-3)


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b"}}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match="2 classes"):
        open_reranker(RerankerModel(kind="reranker", path=str(tmp_path)))
