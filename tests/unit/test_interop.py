"""Evaluations of other tools: read within limits, stored with intervals, compared by sample; and lm-evaluation-harness
asking a Bucle model, with the numbers of its own `hf` model."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bucle.core.errors import BadInput, BucleError, NotFound
from bucle.evaluate.interop import read_evaluations, untrusted
from bucle.loop.interop import compare_imported, import_evaluations, imported
from bucle.loop.workspace import Workspace

ZSTD = 93


def sample(place: int, right: bool, epoch: int = 1) -> dict[str, Any]:
    """A sample as Inspect writes it."""
    return {
        "id": f"s{place}", "epoch": epoch, "target": "Sí", "input": [{"role": "user", "content": f"¿{place}?"}],
        "output": {"choices": [{"message": {"role": "assistant", "content": [{"type": "text", "text": "Sí"}]}}]},
        "scores": {"match": {"value": "C" if right else "I"}, "parts": {"value": {"a": 0.5, "b": "x"}},
                   "free": {"value": "good enough"}},
        "model_usage": {"m": {"input_tokens": 7, "output_tokens": 2}}, "total_time": 0.25,
    }


def header(task: str = "caps", model: str = "openai-api/bucle/labels", **spec: Any) -> dict[str, Any]:
    return {
        "version": 2, "status": "success", "plan": {"name": "plan", "steps": [{"solver": "generate"}]},
        "eval": {"task": task, "task_version": 3, "model": model, "created": "2026-01-02T03:04:05+00:00",
                 "packages": {"inspect_ai": "0.3.285"}, "config": {"epochs": 1}, "dataset": {"samples": 4}, **spec},
        "results": {"scores": [{"name": "match", "metrics": {"accuracy": {"name": "accuracy", "value": 0.75},
                                                             "stderr": {"name": "stderr", "value": 0.2}}}]},
        "stats": {"model_usage": {"m": {"input_tokens": 28, "output_tokens": 8}}},
    }


def write_eval(path: Path, samples: list[Any], head: Any = None, *, method: int = ZSTD) -> Path:
    """A `.eval` file; Inspect packs its members with Zstandard, which zipfile cannot write before Python 3.14."""
    members = {"header.json": header() if head is None else head}
    members |= {f"samples/{place}_epoch_1.json": one for place, one in enumerate(samples)}
    buffer = io.BytesIO()
    plain = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in members.items()}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in plain.items():
            packed = data
            if method == ZSTD:
                sink = pa.BufferOutputStream()
                with pa.CompressedOutputStream(sink, "zstd") as stream:
                    stream.write(data)
                packed = sink.getvalue().to_pybytes()
            archive.writestr(name, packed)
    raw = bytearray(buffer.getvalue())
    if method == ZSTD:  # say so in both headers, with the size and the checksum of what was packed
        for name, data in plain.items():
            facts = struct.pack("<I", zlib.crc32(data))
            at = -1
            while (at := raw.find(name.encode(), at + 1)) >= 0:
                for mark, back, place in ((b"PK\x03\x04", 30, 8), (b"PK\x01\x02", 46, 10)):
                    if raw[at - back : at - back + 4] == mark:
                        raw[at - back + place : at - back + place + 2] = struct.pack("<H", ZSTD)
                        raw[at - back + place + 6 : at - back + place + 10] = facts
                        raw[at - back + place + 14 : at - back + place + 18] = struct.pack("<I", len(data))
    path.write_bytes(raw)
    return path


def write_lm_eval(folder: Path, right: list[bool], stamp: str = "2026-01-02T03-04-05.6", model: str = "nano",
                  prompt: str = "Pregunta: {{q}}") -> Path:
    """`results_*.json` and `samples_*.jsonl` as lm-evaluation-harness 0.4.13 writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    mean = sum(right) / len(right)
    results = {
        "results": {"caps": {"alias": "caps", "acc,none": mean, "acc_stderr,none": 0.1, "acc,strict": mean}},
        "configs": {"caps": {"task": "caps", "doc_to_text": prompt, "dataset_kwargs": {"data_files": "/home/x"},
                             "metadata": {"version": 1.0, "config_source": "/home/x/caps.yaml"}}},
        "versions": {"caps": 1.0}, "n-shot": {"caps": 0}, "config": {"model": "hf", "limit": None}, "date": 1.7e9,
        "lm_eval_version": "0.4.13", "model_name": model,
    }
    (folder / f"results_{stamp}.json").write_text(json.dumps(results))
    with (folder / f"samples_caps_{stamp}.jsonl").open("w") as file:
        for chosen in ("none", "strict"):
            for place, one in enumerate(right):
                file.write(json.dumps({
                    "doc_id": place, "doc": {"q": "ñ"}, "target": "0", "doc_hash": f"{place:064d}", "filter": chosen,
                    "arguments": {"gen_args_0": {"arg_0": f"Pregunta: {place}", "arg_1": " a"}},
                    "filtered_resps": ["a"], "metrics": ["acc", "word_perplexity"], "acc": float(one),
                    "word_perplexity": [-3.5, 4]}) + "\n")
    return folder / f"results_{stamp}.json"


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "rows.csv").write_text("text,label\na,b\n")
    (folder / "bucle.yaml").write_text(
        "project: p\ntasks: {t: {kind: classify, data: rows.csv, text: text, label: label}}\n")
    found = Workspace.open(folder)
    yield found
    found.close()


@pytest.mark.parametrize("method", [ZSTD, zipfile.ZIP_STORED])
def test_inspect_logs(tmp_path: Path, method: int) -> None:
    path = write_eval(tmp_path / "x.eval", [sample(i, i < 3) for i in range(4)], method=method)
    (one,) = read_evaluations(path)
    assert (one.tool, one.version, one.model, one.task) == ("inspect", "0.3.285", "openai-api/bucle/labels", "caps")
    assert (one.metrics, one.errors) == ({"match/accuracy": 0.75}, {"match": 0.2})
    assert (one.usage.tokens_in, one.usage.tokens_out) == (28, 8)
    row = one.rows[0]
    assert (row.id, row.input, row.target, row.output, row.ms) == ("s0", "¿0?", "Sí", "Sí", 250.0)
    assert row.scores == {"match": 1.0, "parts/a": 0.5}
    assert one.notes == ["4 scores are no numbers and were left out"]
    (tmp_path / "x.json").write_text(json.dumps(header() | {"samples": [sample(i, i < 3) for i in range(4)]}))
    (again,) = read_evaluations(tmp_path / "x.json")
    assert (again.rows, again.config_sha256) == (one.rows, one.config_sha256)


def test_lm_eval_results(tmp_path: Path) -> None:
    (one,) = read_evaluations(write_lm_eval(tmp_path, [True, False, True]))
    assert (one.tool, one.version, one.model, one.task, one.task_version) == (
        "lm-eval", "0.4.13", "nano", "caps", "1.0")
    assert one.metrics == {"acc": pytest.approx(2 / 3), "acc,strict": pytest.approx(2 / 3)}
    assert len(one.rows) == 3
    assert one.rows[1].scores == {"acc": 0.0, "acc,strict": 0.0}
    assert one.rows[0].input == "Pregunta: 0"
    assert "/home/x" not in json.dumps(one.config)
    assert one.notes == ["6 values of word_perplexity belong to the whole corpus, not to a sample"]


def test_stored_once_and_shown_with_intervals(ws: Workspace, tmp_path: Path) -> None:
    write_lm_eval(tmp_path / "in", [True] * 30 + [False] * 10)
    (found,) = import_evaluations(ws, tmp_path / "in")
    assert import_evaluations(ws, tmp_path / "in")[0]["id"] == found["id"]
    assert [one["id"] for one in imported(ws)] == [found["id"]]
    assert found["reported"]["acc"] == found["metrics"]["acc"]["value"] == 0.75
    assert found["metrics"]["acc"]["low"] == pytest.approx(0.598, abs=1e-3)  # Wilson's interval of 30 in 40
    node = ws.ledger.get(found["id"])
    assert node.attrs["config_sha256"] == found["config_sha256"]
    assert len(ws.ledger.read(node, "samples.jsonl").splitlines()) == 40


def test_epochs_of_one_sample_are_one_cluster(ws: Workspace, tmp_path: Path) -> None:
    once = write_eval(tmp_path / "a.eval", [sample(i, i % 2 == 0) for i in range(20)])
    often = write_eval(tmp_path / "b.eval", [sample(i, i % 2 == 0, e) for i in range(20) for e in range(3)])
    a, b = (import_evaluations(ws, path)[0]["metrics"]["match"] for path in (once, often))
    assert (a["n"], b["n"]) == (20, 60)
    assert b["high"] - b["low"] == pytest.approx(a["high"] - a["low"], rel=0.1), "asking again is no new evidence"


def test_two_runs_are_compared_by_sample(ws: Workspace, tmp_path: Path) -> None:
    import_evaluations(ws, write_lm_eval(tmp_path / "a", [i % 2 == 0 for i in range(60)]))
    import_evaluations(ws, write_lm_eval(tmp_path / "b", [i % 2 == 0 or i % 3 == 0 for i in range(50)], "2026-02",
                                         model="lora"))
    b, a = (one["id"] for one in imported(ws))
    found = compare_imported(ws, a[:20], b[:20])
    gain = found["metrics"]["acc"]["difference"]
    assert (gain["n"], found["same_task"], found["b"]["model"]) == (50, True, "lora")
    assert gain["value"] == pytest.approx(8 / 50)
    assert 0 < gain["low"] < gain["value"]
    assert found["metrics"]["acc"]["p"] < 0.05
    other = import_evaluations(ws, write_lm_eval(tmp_path / "c", [True] * 5, "3", prompt="Q: {{q}}"))[0]["id"]
    assert not compare_imported(ws, a, other)["same_task"]
    log = import_evaluations(ws, write_eval(tmp_path / "x.eval", [sample(1, True)]))[0]["id"]
    with pytest.raises(BadInput, match="share no sample"):
        compare_imported(ws, a, log)
    with pytest.raises(NotFound):
        compare_imported(ws, a, "evaluation:nothing")


def bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    def text(name: str, content: str | bytes) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    yield folder / "absent.eval", "does not exist"
    yield text("empty.eval", ""), "is empty"
    yield text("no.eval", "PK but no zip"), "not a readable zip"
    yield text("what.csv", "a,b\n"), "no evaluation that Bucle reads"
    yield text("list.json", "[1, 2]"), "no evaluation that Bucle knows"
    yield text("cut.json", '{"eval": {'), "is not JSON"
    yield text("deep.json", "[" * 100_000), "nested too deep"
    yield text("latin.json", '{"año": 1}'.encode("latin-1")), "not UTF-8"
    yield text("samples_x_1.jsonl", "{}\n"), "samples without their results"
    yield text("none.json", '{"results": {}, "configs": {}}'), "name no task"
    yield write_eval(folder / "list.eval", [], [1]), "does not say what was evaluated"
    yield write_eval(folder / "ids.eval", [{"no": "id"}]), "no sample of Inspect's"
    damaged = write_eval(folder / "damaged.eval", [sample(0, True)])
    damaged.write_bytes(damaged.read_bytes()[:60] + b"\x00\x00\x00\x00" + damaged.read_bytes()[64:])
    yield damaged, "header.json"
    started = folder / "started.eval"
    with zipfile.ZipFile(started, "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    yield started, "has not finished"
    (folder / "sub").mkdir()
    yield folder / "sub", "holds no evaluation"


def test_bad_files_are_told_clearly(tmp_path: Path) -> None:
    for path, told in bad_files(tmp_path):
        with pytest.raises(BucleError) as error:
            read_evaluations(path)
        assert told in error.value.message, path
        assert error.value.hint, path


@pytest.mark.parametrize("method", [ZSTD, zipfile.ZIP_STORED])
def test_a_bomb_stops_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int) -> None:
    monkeypatch.setattr(untrusted, "MAX_MEMBER", 100_000)
    path = write_eval(tmp_path / "bomb.eval", [b" " * 5_000_000], method=method)
    with pytest.raises(BadInput, match="passes 100,000 bytes"):
        read_evaluations(path)
    monkeypatch.setattr(untrusted, "MAX_MEMBERS", 3)
    with pytest.raises(BadInput, match="over 3 members"):
        read_evaluations(write_eval(tmp_path / "many.eval", [sample(i, True) for i in range(4)]))
    monkeypatch.setattr(untrusted, "MAX_JSON", 10)
    (tmp_path / "large.json").write_text(json.dumps(header()))
    with pytest.raises(BadInput, match="over 10 bytes"):
        read_evaluations(tmp_path / "large.json")


def test_names_in_a_log_are_no_paths(ws: Workspace, tmp_path: Path) -> None:
    """A task called `../../secret` reads no file beside; a link in a folder leads nowhere; nothing is unpacked."""
    (tmp_path / "samples_secret_1.jsonl").write_text(json.dumps({"doc_id": 0, "metrics": ["acc"], "acc": 1.0}))
    inside = tmp_path / "in"
    path = write_lm_eval(inside, [True], "1")
    text = path.read_text().replace('"caps"', '"../samples_secret"')
    path.write_text(text)
    assert read_evaluations(path)[0].rows == []
    (tmp_path / "out.json").write_text(json.dumps(header()))
    (inside / "results_link.json").symlink_to(tmp_path / "out.json")
    assert len(read_evaluations(inside)) == 1
    before = sorted(tmp_path.rglob("*"))
    read_evaluations(write_eval(inside / "x.eval", [sample(0, True)], header(task="../../etc/passwd")))
    assert sorted(p for p in tmp_path.rglob("*") if p.name != "x.eval") == before


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    one = sample(0, True)
    one["scores"] = {"nan": {"value": float("nan")}, "huge": {"value": 10**400}, "word": {"value": "1e3"}, "no": None}
    one["model_usage"] = {"m": {"input_tokens": -5, "output_tokens": "many"}}
    head = header() | {"status": "error"}
    (found,) = read_evaluations(write_eval(tmp_path / "x.eval", [one], head))
    assert found.rows[0].scores == {"word": 1000.0}
    assert (found.rows[0].usage.tokens_in, found.rows[0].usage.tokens_out) == (0, 0)
    assert found.notes[0].startswith("the run's status is error")


LM_EVAL = """
import json, sys
from pathlib import Path
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from bucle.evaluate.interop.lm_eval import local_lm, run
from bucle.models.local import LocalModel

root = Path(sys.argv[1])
rows = [json.loads(line) for line in (root / "rows.jsonl").read_text().splitlines()]
t = Tokenizer(models.BPE())
t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"],
                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
t.train_from_iterator([row["question"] for row in rows], trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", pad_token="</s>")
torch.manual_seed(0)
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                     num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=96, bos_token_id=0,
                     eos_token_id=1, initializer_range=0.3)
LlamaForCausalLM(config).save_pretrained(root / "nano")
tokenizer.save_pretrained(root / "nano")
tasks = ["caps", "gen", "ppl"]
theirs = simple_evaluate(model="hf", model_args={"pretrained": str(root / "nano"), "dtype": "float32",
                         "device": "cpu"}, tasks=tasks, task_manager=TaskManager(include_path=str(root)),
                         bootstrap_iters=0, batch_size=1)
ours = run(local_lm(LocalModel(root / "nano")), tasks, include=root)
said = {name: [s["filtered_resps"] for s in rows] for name, rows in theirs["samples"].items()}
print("\\n" + json.dumps({
    "theirs": {name: {k.split(",")[0]: v for k, v in found.items() if k.endswith(",none")}
               for name, found in theirs["results"].items()},
    "ours": {one.task: one.metrics for one in ours},
    "text": [[r.output for r in one.rows] == [s[0] for s in said["gen"]] for one in ours if one.task == "gen"],
    "nats": max(abs(p[0] - float(q[0])) for one in ours if one.task == "caps"
                for r, s in zip(one.rows, said["caps"]) for p, q in zip(json.loads(r.output), s))}, default=float))
"""
TASKS = {
    "caps": {"output_type": "multiple_choice", "doc_to_text": "Pregunta: {{question}}\nRespuesta:",
             "doc_to_choice": "{{choices}}", "doc_to_target": "{{label}}",
             "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "gen": {"output_type": "generate_until", "doc_to_text": "Pregunta: {{question}}\nRespuesta:",
            "doc_to_target": "{{choices[label]}}", "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]},
    "ppl": {"output_type": "loglikelihood_rolling", "doc_to_text": "",
            "doc_to_target": "{{question}} {{question}} {{choices[0]}} {{question}} {{question}} {{question}}",
            "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]},
}


@pytest.mark.slow
@pytest.mark.torch
def test_the_harness_gets_the_numbers_of_its_own_hf_model(tmp_path: Path) -> None:
    """Choices, generated text and perplexities over windows, on the same folder, to 1e-6."""
    pytest.importorskip("lm_eval", reason="pip install 'bucle[lm-eval]'")
    asked = ["¿Cuál es la capital de España?", "¿Qué hago si no tengo internet?", "¿De qué color es el cielo?"]
    with (tmp_path / "rows.jsonl").open("w") as file:
        for place in range(12):
            file.write(json.dumps({"question": f"{asked[place % 3]} ({place})", "label": place % 3,
                                   "choices": [" Madrid", " llamar al servicio técnico", " azul"]}) + "\n")
    for name, body in TASKS.items():
        data = {"task": name, "dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0},
                "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(data | body))
    done = subprocess.run([sys.executable, "-c", LM_EVAL, str(tmp_path)], capture_output=True, text=True, timeout=280,
                          env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["ours"]) == set(TASKS)
    for task, metrics in found["ours"].items():
        for name, value in metrics.items():
            assert value == pytest.approx(found["theirs"][task][name], rel=1e-6), (task, name)
    assert found["text"] == [True]
    assert found["nats"] < 1e-4, "sums of float32"
