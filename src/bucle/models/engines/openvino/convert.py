"""A model's folder to OpenVINO, once: kept under the user's cache by what it is made from, checked before it is kept.

Checked means: the tokens that the paged pipeline itself chooses for a few prompts are laid before the model in
transformers, float32, which says how likely each was and whether any was likelier (`_compare`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import BucleError, ModelUnavailable
from bucle.core.ids import file_sha256, sha256_hex
from bucle.models.cpu import bf16_is_fast, default_threads, quiet_libraries
from bucle.models.embedding.identity import cache_root, identity_of
from bucle.models.embedding.library import openvino_quiet
from bucle.models.engines.openvino.pipeline import Paged, Spoilt
from bucle.models.engines.openvino.trace import FAMILIES, NotConverted, shape_of, trace
from bucle.models.engines.openvino.weights import BYTES, compress
from bucle.models.folder import checked_folder, outline, read_json
from bucle.models.making import PREFIX, settle, sweep

__all__ = ["LARGE", "NotConverted", "converted", "kept_at", "precision_of"]

FORMAT = 1
LARGE = 100_000_000
"""Parameters from which a token takes longer to fetch the weights from memory than to compute: there `auto` is int8."""
ALLOWED = {"fp32": 1e-3, "bf16": 0.35, "int8": 0.5, "int4": 3.0}
"""How much less likely (nats) than the model's likeliest a chosen token may be. fp32: the same token, or a tie. The
others catch nonsense, not loss of quality: that is in `meta.json` beside it, measured."""
PROBES, TOKENS = (1, 9, 75), 12
"""Lengths of the prompts (the last takes several blocks of the cache) and tokens that each is continued by."""


def precision_of(folder: Path, precision: str) -> str:
    """What `auto` means for the model in `folder`: int8 from 100 million parameters on; below, where the weights stay
    in the processor's cache and fewer bits gain nothing, bf16 where this processor is fast at it, else fp32."""
    if precision != "auto":
        return precision
    if int(outline(folder)["parameters"]) >= LARGE:
        return "int8"
    return "bf16" if bf16_is_fast() else "fp32"


def converted(folder: Path, precision: str, *, adapter: Path | None = None, root: Path | None = None) -> Path:
    """The folder of the model in `folder` for OpenVINO, with the PEFT adapter in `adapter` merged into its weights:
    `openvino_model.xml` and `.bin`, tokenizer and detokenizer, `meta.json`.

    `precision` is `fp32`, `bf16`, `int8` or `int4`; `root` where it is kept (`cache_root()/openvino-lm`). Made at the
    first call (about 2 s for nano, 35 s for 0.6 billion parameters); several processes may make the same at once, and
    a kill leaves only a temporary folder. Raises NotConverted, with the reason, and ModelUnavailable where the model
    itself cannot be loaded.
    """
    folder, adapter = checked_folder(folder), None if adapter is None else checked_folder(adapter)
    final = kept_at(folder, precision, adapter=adapter, root=root)
    if (final / "meta.json").is_file():
        return final
    root = final.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        _room(folder, precision, root)
        making = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    except OSError as error:
        raise NotConverted(f"{root} cannot be written ({error.strerror})", "set BUCLE_CACHE to a folder") from error
    try:
        _convert(folder, precision, adapter, making)
        settle(making, final)
    except OSError as error:
        raise NotConverted(f"the converted model cannot be kept in {root} ({error.strerror})",
                           "set BUCLE_CACHE to a folder with room") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return final


def kept_at(folder: Path, precision: str, *, adapter: Path | None = None, root: Path | None = None) -> Path:
    """Where `converted` keeps what it makes of this, made or not. Raises NotConverted for an architecture that it does
    not take, and ModelUnavailable for a folder that is refused."""
    folder = checked_folder(folder)
    if str(read_json(folder / "config.json").get("model_type", "")) not in FAMILIES:
        shape_of(_Said(read_json(folder / "config.json")))
    root = root or cache_root() / "openvino-lm"
    libraries = "-".join(version(name) for name in ("openvino", "openvino-genai", "transformers"))
    parts = [identity_of(folder), precision, libraries, str(FORMAT)]
    if adapter is not None:
        adapter = checked_folder(adapter)
        files = [adapter / name for name in ("adapter_config.json", "adapter_model.safetensors")]
        if missing := [path.name for path in files if not path.is_file()]:
            raise ModelUnavailable(f"{adapter} is no adapter: it has no {missing[0]}.", "give a PEFT folder")
        parts += [file_sha256(path) for path in files]
    return root / f"{sha256_hex(' '.join(parts))[:32]}-{precision}"


class _Said:
    """A config.json read as attributes."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.__dict__.update(config)


def _room(folder: Path, precision: str, root: Path) -> None:
    """Refuse before anything is made where disk or memory cannot hold it."""
    parameters = int(outline(folder)["parameters"])
    disk = int(parameters * BYTES[precision] * 1.1) + 2**26
    if (free := shutil.disk_usage(root).free) < disk:
        raise NotConverted(f"{root} has {free / 2**30:.1f} GB free; the converted model takes {disk / 2**30:.1f} GB.",
                           "free disk space, or set BUCLE_CACHE to a folder that has it")
    memory = int(parameters * (4 + 2 * BYTES[precision])) + 2**28
    with contextlib.suppress(OSError, ValueError, StopIteration):
        line = next(one for one in Path("/proc/meminfo").read_text().splitlines() if one.startswith("MemAvailable"))
        if (free := int(line.split()[1]) * 1024) < memory:
            raise NotConverted(f"{free / 2**30:.1f} GB of memory are free; converting takes {memory / 2**30:.1f} GB.",
                               "close other programs, or convert it on a larger machine and copy the cache folder")


def _convert(folder: Path, precision: str, adapter: Path | None, out: Path) -> None:
    # Not prepare_torch(): it keeps freed memory for the next step, and here what was freed is wanted back for serving.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from bucle.models.local import _with_adapter, load_model

    torch.set_num_threads(default_threads())

    model, tokenizer = load_model(folder, float32=True)
    if adapter is not None:
        model = _with_adapter(model, adapter)
    model.eval()
    shape = shape_of(model.config)
    graph = trace(model)
    width = compress(graph, precision)
    openvino = openvino_quiet()
    openvino.save_model(graph, out / "openvino_model.xml", compress_to_fp16=False)
    del graph
    meta: dict[str, Any] = {
        "precision": precision, "layers": shape.layers, "heads": shape.heads, "head_width": shape.keys, "width": width,
        "context": int(model.config.max_position_embeddings), "vocabulary": int(model.config.vocab_size),
        "parameters": sum(one.numel() for one in model.parameters()), "guided": _tokenizer(tokenizer, out)}
    (out / "meta.json").write_text(json.dumps(meta))
    try:
        meta |= _compare(model, out, precision)
    except Spoilt as error:  # just written: it is the pipeline that cannot
        raise NotConverted(f"OpenVINO's paged pipeline does not take it: {error.message}",
                           "serve it with `engine: transformers`") from error
    except BucleError:
        raise
    except Exception as error:  # openvino-genai raises bare exceptions where it does not take a model
        said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        raise NotConverted(f"OpenVINO's paged pipeline does not take it: {said}",
                           "serve it with `engine: transformers`") from error
    if meta["regret"] > ALLOWED[precision]:
        raise NotConverted(f"what it answers in {precision} is not what transformers answers: a token was chosen that "
                           f"is {meta['regret']:.3f} nats less likely than another.",
                           "serve it with `engine: transformers`, or in a higher `precision`")
    (out / "meta.json").write_text(json.dumps(meta))


def _tokenizer(tokenizer: Any, out: Path) -> bool:
    """Write tokenizer and detokenizer, which guided output needs to know what each token spells. Returns whether that
    worked: without them the model is served unguided. Text is always tokenized by the model's own tokenizer."""
    try:
        with warnings.catch_warnings(), quiet_libraries():
            warnings.simplefilter("ignore")
            openvino = openvino_quiet()
            from openvino_tokenizers import convert_tokenizer

            for made, name in zip(convert_tokenizer(tokenizer, with_detokenizer=True),
                                  ("openvino_tokenizer", "openvino_detokenizer"), strict=True):
                openvino.save_model(made, out / f"{name}.xml")
    except Exception:  # a tokenizer of a kind that it does not know raises whatever it stumbles over
        for left in out.glob("openvino_*tokenizer.*"):
            left.unlink()
        return False
    return True


def _compare(model: Any, out: Path, precision: str) -> dict[str, float]:
    """How far the pipeline is from the model: `regret` (nats, the most by which a chosen token was less likely than the
    likeliest), `same` (share of the tokens that were the likeliest), `logprob_error` (mean, nats)."""
    import torch

    random = np.random.default_rng(0)
    context = int(model.config.max_position_embeddings)
    prompts = [random.integers(0, int(model.config.vocab_size), min(length, max(1, context - TOKENS - 1))).tolist()
               for length in PROBES]
    with contextlib.closing(Paged(out, blocks=32, threads=1)) as paged:
        answers = paged.greedy(prompts, TOKENS)
    regret, errors, same = 0.0, [], []
    for prompt, (tokens, found) in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt + tokens[:-1]]), use_cache=False).logits
            own = torch.log_softmax(logits[0, len(prompt) - 1:].float(), -1)
        chosen = own[torch.arange(len(tokens)), torch.tensor(tokens)].double().numpy()
        gaps = own.max(-1).values.double().numpy() - chosen
        regret = max(regret, float(gaps.max()) if np.isfinite(gaps).all() else float("inf"))
        same += [gap <= 0 for gap in gaps]
        errors += list(np.abs(chosen - np.array(found)))
    return {"regret": regret, "same": float(np.mean(same)), "logprob_error": float(np.mean(errors))}
