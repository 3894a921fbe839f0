"""Fine-tuning: what is trained is what is shown, bad rows are refused, and a kill changes nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, ConfigError, ModelUnavailable, NotFound
from bucle.core.ports import FitContext, LoadContext, Technique
from bucle.core.records import Example
from bucle.customise.finetune import Full, Lora, show_batch
from bucle.customise.finetune.rows import build_rows, check_rows, continuation, prompt_for

pytestmark = pytest.mark.torch

LABELS = ("alta", "baja", "factura")
SAYINGS = {
    "alta": ["quiero contratar fibra", "dar de alta la luz", "contratar un plan nuevo", "nueva alta en mi casa"],
    "baja": ["quiero cancelar el contrato", "dar de baja la luz", "anular mi plan", "ya no quiero el servicio"],
    "factura": ["no entiendo mi factura", "la factura llega tarde", "me cobran de más en el recibo",
                "duplicado del recibo"],
}
EXAMPLES = [Example(id=f"e{i}", input=f"{text} {['por favor', 'hoy', 'gracias', ''][i % 4]}".strip(), target=label)
            for i, (label, text) in enumerate((label, text) for _ in range(4) for label in LABELS
                                              for text in SAYINGS[label])]
random.Random(1).shuffle(EXAMPLES)


def silent(done: int, total: int, note: str = "") -> None:
    """A report nobody reads."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bucle.customise.pretrain import pretrain

    folder = tmp_path_factory.mktemp("base")
    out = folder / "nano"
    out.mkdir()
    pretrain([example.input for example in EXAMPLES] * 4, out, folder / "work", steps=40, report=silent, width=64,
             layers=2, context=64, batch_tokens=512, vocabulary=320, threads=1)
    return out


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    from bucle.models.local import load_model

    return load_model(base)[1]


def context(tmp_path: Path, base: Path | None, **params: Any) -> FitContext:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    return FitContext(out=out, work=tmp_path / "work", train=EXAMPLES, validation=(), labels=LABELS, seed=0,
                      report=silent, base=base, params={"threads": 1, **params})


def test_rows_train_the_answer_and_its_end_token_only(tokenizer: Any) -> None:
    rows = build_rows(tokenizer, EXAMPLES, LABELS, instruction="Classify:", context=64)
    for row, example in zip(rows.rows, EXAMPLES, strict=True):
        trained = [token for token in row.labels if token != -100]
        assert tokenizer.decode(trained) == f"{example.target}<|end|>"
        assert trained[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row.ids[:len(row.ids) - row.answer]) == prompt_for(
            tokenizer, example.input, "Classify:")


def test_show_batch_is_what_the_model_reads(base: Path) -> None:
    shown = show_batch(EXAMPLES[:2], base, {"instruction": "Di:"}, LABELS)
    for text, example in zip(shown, EXAMPLES, strict=False):
        prompt, _, answer = text.partition("⟦")
        assert prompt == f"<|bos|><|user|>Di: {example.input}<|end|><|assistant|>"
        assert answer.replace("⟦", "").replace("⟧", "") == f"{example.target}<|end|>"
    assert len(shown) == 2


def test_long_messages_are_cut_at_the_beginning_and_counted(tokenizer: Any) -> None:
    long = Example(id="long", input="relleno " * 60 + "quiero la baja", target="baja")
    odd = [Example(id="none", input="hola", target=None), Example(id="empty", input=" ", target="baja")]
    rows = build_rows(tokenizer, [long, *odd, EXAMPLES[0]], LABELS, instruction="", context=64)
    assert (rows.truncated, rows.dropped, len(rows.rows)) == (1, {"no target": 1, "empty input": 1}, 2)
    assert len(rows.rows[0].ids) == 64
    text = tokenizer.decode(rows.rows[0].ids)
    assert text.startswith("<|bos|>")
    assert text.endswith("quiero la baja<|end|><|assistant|>baja<|end|>")


def test_rows_that_cannot_teach_are_refused(tokenizer: Any) -> None:
    def rows(examples: list[Example], labels: tuple[str, ...] = LABELS, size: int = 64) -> Any:
        return build_rows(tokenizer, examples, labels, instruction="", context=size)

    good = rows(EXAMPLES[:3])
    ends = {tokenizer.eos_token_id}
    check_rows(good, ends, held_out=["other"])
    with pytest.raises(BadInput, match="end token is never trained"):
        check_rows(good, {0})
    with pytest.raises(BadInput, match="held-out"):
        check_rows(good, ends, held_out=[EXAMPLES[1].id])
    with pytest.raises(BadInput, match="no trained token"):
        check_rows(replace(good, rows=(replace(good.rows[0], answer=0),)), ends)
    with pytest.raises(BadInput, match="No row is left"):
        check_rows(rows([]), ends)
    with pytest.raises(BadInput, match="would be cut"):
        rows([Example(id="x", input="hola", target="z" * 80)], ("z" * 80,))
    with pytest.raises(BadInput, match="unknown label"):
        rows([Example(id="x", input="hola", target="otra")])


def test_a_model_without_a_usable_template_is_refused(base: Path, tokenizer: Any) -> None:
    from bucle.models.local import load_model

    bare = load_model(base)[1]
    bare.chat_template = None
    with pytest.raises(BadInput, match="no chat template"):
        build_rows(bare, EXAMPLES, LABELS, instruction="", context=64)
    bare.chat_template = "{{ messages | length }}:{{ messages[-1]['content'] }}"
    with pytest.raises(BadInput, match="differently"):
        continuation(bare, "alta", "")
    bare.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    rows = build_rows(bare, EXAMPLES, LABELS, instruction="", context=64)
    with pytest.raises(BadInput, match="end token"):
        check_rows(rows, {tokenizer.eos_token_id})


@pytest.mark.parametrize("technique", [Full(), Lora()], ids=["full", "lora"])
def test_a_technique_learns_and_loads_again(technique: Technique, base: Path, tmp_path: Path) -> None:
    from bucle.models.local import LocalModel

    assert isinstance(technique, Technique)
    fit = context(tmp_path, base, epochs=40, batch=8, learning_rate=0.003 if technique.name == "full" else 0.01)
    figures = technique.fit(fit)
    assert figures["rows"] == len(EXAMPLES)
    assert figures["losses"][-1][1] < 0.3 * figures["losses"][0][1]
    files = {path.name for path in fit.out.iterdir()}
    assert ("adapter_model.safetensors" in files) == (technique.name == "lora")
    assert not [name for name in files if name.endswith((".bin", ".pt"))]
    predictor = technique.load(fit.out, LoadContext(labels=LABELS, params={"threads": 1}, base=base))
    predictions = predictor.predict([*(example.input for example in EXAMPLES), "  "])
    right = sum(p.output == e.target for p, e in zip(predictions, EXAMPLES, strict=False))
    assert right >= 0.9 * len(EXAMPLES)
    assert all(0 < p.score <= 1 for p in predictions[:-1] if p.score is not None)
    assert predictions[-1].error
    # The end token was learnt: left to itself, the tuned model writes the label and stops.
    model = LocalModel(base, adapter=fit.out, threads=1) if technique.name == "lora" else LocalModel(fit.out, threads=1)
    reply = model.chat([{"role": "user", "content": f"Classify: {EXAMPLES[0].input}"}], max_tokens=20)
    assert (reply.text, reply.finish) == (predictions[0].output, "stop")


def test_a_users_mistakes_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no parameter epoch"):
        Full().fit(context(tmp_path, base, epoch=3))
    with pytest.raises(ModelUnavailable, match="needs a base"):
        Lora().fit(context(tmp_path, None))
    with pytest.raises(NotFound):
        Full().load(tmp_path, LoadContext(labels=LABELS, params={}))


def test_an_adapter_that_changes_nothing_is_refused(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from bucle.models.local import LocalModel, merge

    fit = context(tmp_path, base, epochs=1)
    Lora().fit(fit)
    merge(base, fit.out, tmp_path / "merged")
    message = [{"role": "user", "content": "Classify: quiero cancelar"}]
    prompts = [LocalModel(base, threads=1).render(message)]
    merged = LocalModel(tmp_path / "merged", threads=1).label_scores(prompts, LABELS)
    assert merged == pytest.approx(LocalModel(base, adapter=fit.out, threads=1).label_scores(prompts, LABELS), abs=1e-4)
    weights = fit.out / "adapter_model.safetensors"
    save_file({name: 0 * tensor for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(ModelUnavailable, match="changes nothing"):
        LocalModel(base, adapter=fit.out, threads=1)


SCRIPT = """
import json, sys, time
from pathlib import Path
from bucle.core.ports import FitContext
from bucle.core.records import Example
from bucle.customise.finetune import Full, Lora
def report(done, total, note=""):
    print(done, flush=True)
    time.sleep(float(sys.argv[4]))
examples = [Example(**row) for row in json.loads(sys.stdin.read())]
technique = {"full": Full, "lora": Lora}[sys.argv[5]]()
figures = technique.fit(FitContext(
    out=Path(sys.argv[1]), work=Path(sys.argv[2]), train=examples, validation=(), labels=["alta", "baja",
    "factura"], params={"threads": 1, "epochs": 6, "batch": 8, "save_seconds": 0.0}, seed=3, report=report,
    base=Path(sys.argv[3])))
print(json.dumps(dict(figures)))
"""


def fit_apart(folder: Path, work: Path, base: Path, technique: str, stop_at: int = 0) -> tuple[int, Mapping[str, Any]]:
    folder.mkdir()
    arguments = [str(folder), str(work), str(base), "0.03" if stop_at else "0", technique]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"}) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([example.model_dump() for example in EXAMPLES]))
        process.stdin.close()
        line = ""
        for line in process.stdout:
            if stop_at and int(line) >= stop_at:
                process.send_signal(signal.SIGKILL)
                break
    return process.returncode, {} if stop_at else json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("technique", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_a_fit_killed_midway_ends_with_the_same_weights(base: Path, tmp_path: Path, technique: str) -> None:
    code, expected = fit_apart(tmp_path / "whole", tmp_path / "work0", base, technique)
    assert code == 0
    code, _ = fit_apart(tmp_path / "killed", tmp_path / "work", base, technique, stop_at=random.randint(8, 30))
    assert code == -signal.SIGKILL
    code, figures = fit_apart(tmp_path / "again", tmp_path / "work", base, technique)
    assert code == 0
    assert figures["resumed_at"] > 0
    assert figures["losses"] == expected["losses"]
    name = "adapter_model.safetensors" if technique == "lora" else "model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
