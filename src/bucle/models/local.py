"""A causal language model from a Hugging Face folder, in this process: chat, label scores, bits per byte."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import ChatReply, Message
from bucle.core.records import Usage
from bucle.models.cpu import bf16_is_fast, prepare_torch, quiet_libraries
from bucle.models.folder import checked_folder, describe, read_json

if TYPE_CHECKING:
    import torch

__all__ = ["LocalModel", "bits_per_byte", "describe", "merge"]

# Tokens in one forward pass: bounds memory (logits are tokens x vocabulary x 4 bytes) and keeps the cores
# busy.
TOKENS_AT_ONCE = 8192


class LocalModel:
    """The model in `folder` (or a Hub name), with `adapter` (a PEFT folder) merged into it; implements
    ChatModel.

    `truncated` counts the prompts that `label_scores` had to cut since loading. Raises ModelUnavailable where
    the folder is refused (see `checked_folder`) or cannot be loaded, and for an adapter that changes no
    weight.
    """

    def __init__(self, folder: str | Path, *, adapter: Path | None = None, threads: int | None = None,
                 name: str = "") -> None:
        prepare_torch(threads)
        self.folder = checked_folder(folder)
        self.name = name or self.folder.name
        self.model, self.tokenizer = load_model(self.folder)
        if adapter is not None:
            self.model = _with_adapter(self.model, adapter)
        config = self.model.config
        self.context = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2048)
        self.truncated = 0
        ends = self.model.generation_config.eos_token_id
        self.end_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    # --- conversation

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt that the chat template makes of `messages`, ending where the assistant begins."""
        return render(self.tokenizer, messages)

    def chat(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
             stop: Sequence[str] = (), seed: int = 0) -> ChatReply:
        """The whole reply. `temperature` 0 takes the likeliest token each time; otherwise `seed` decides."""
        for piece in self.stream(messages, max_tokens=max_tokens, temperature=temperature, stop=stop, seed=seed):
            if isinstance(piece, ChatReply):
                return piece
        raise AssertionError("stream ends with a reply")

    def stream(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
               stop: Sequence[str] = (), seed: int = 0) -> Iterator[str | ChatReply]:
        """Pieces of text as they come, then the reply. Raises BadInput where the prompt fills the context."""
        prompt = self.tokenizer(self.render(messages), add_special_tokens=False, verbose=False)["input_ids"]
        room = self.context - len(prompt)
        if room < 1:
            raise BadInput(f"The prompt has {len(prompt)} tokens; {self.name} holds {self.context}.",
                           "shorten the conversation or choose a model with a longer context")
        stops = [text for text in stop if text]
        hold = max((len(text) for text in stops), default=1) - 1
        ids: list[int] = []
        sent, waiting, finish = "", "", "length"
        start = done = 0
        for token in self._tokens(prompt, min(max_tokens, room), temperature, seed):
            if token in self.end_ids:
                finish = "stop"
                break
            ids.append(token)
            old = self._decode(ids[start:done])
            new = self._decode(ids[start:])
            if new.endswith("\ufffd") or len(new) <= len(old):
                continue  # a character that is not whole yet
            start, done = done, len(ids)
            waiting += new[len(old):]
            found = min((place for text in stops if (place := waiting.find(text)) >= 0), default=-1)
            if found >= 0:
                waiting, finish = waiting[:found], "stop"
                break
            if len(waiting) > hold:
                piece, waiting = waiting[:len(waiting) - hold], waiting[len(waiting) - hold:]
                sent += piece
                yield piece
        if waiting:
            sent += waiting
            yield waiting
        yield ChatReply(text=sent, usage=Usage(tokens_in=len(prompt), tokens_out=len(ids)), finish=finish)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _tokens(self, prompt: Sequence[int], limit: int, temperature: float, seed: int) -> Iterator[int]:
        import torch

        random = torch.Generator().manual_seed(seed)
        cache, ids = None, torch.tensor([list(prompt)])
        for _ in range(limit):
            with torch.inference_mode():
                result = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                logits = result.logits[0, -1].float()
                if temperature > 0:
                    token = int(torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=random))
                else:
                    token = int(logits.argmax())
            yield token
            cache, ids = result.past_key_values, torch.tensor([[token]])

    # --- scores

    def label_scores(self, prompts: Sequence[str], continuations: Sequence[str], *,
                     per_token: bool = False) -> np.ndarray:
        """Log-probability (nats) of each continuation after each prompt, `[len(prompts), len(continuations)]`
        float64.

        Special tokens written in either count as such: render prompts with `render`, and end the
        continuations with the model's end token. `per_token` divides by the continuation's length. Each
        prompt is computed once and its keys and values serve all the continuations. A prompt that does not
        fit in the context loses its beginning (the begin token stays, so the oldest few-shot example goes
        first) and is counted in `truncated`.
        """
        import torch

        answers = self._ids(continuations)
        if not answers or not all(answers):
            raise BadInput("A continuation to score is empty.", "give every label a name")
        longest = max(map(len, answers))
        rows = [self._cut(ids, self.context - longest) for ids in self._ids(prompts)]
        scores = np.zeros((len(rows), len(answers)))
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        for batch in _batches(order, lambda index: len(rows[index]) + longest * len(answers)):
            with torch.inference_mode():
                scores[batch] = self._score([rows[index] for index in batch], answers).double().numpy()
        return scores / np.array([len(ids) for ids in answers]) if per_token else scores

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the model's own tokenizer, special tokens in it counted as one."""
        return [len(ids) for ids in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _cut(self, ids: list[int], limit: int) -> list[int]:
        if limit < 2:
            raise BadInput(f"The longest label leaves no room for a prompt in {self.context} tokens.",
                           "shorten the labels")
        if len(ids) <= limit:
            return ids or [self.tokenizer.bos_token_id or self.tokenizer.eos_token_id or 0]
        self.truncated += 1
        begin = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return begin + ids[len(ids) - limit + len(begin):]

    def _score(self, prompts: list[list[int]], answers: list[list[int]]) -> torch.Tensor:
        """`[prompts, answers]`: prompts padded on the left, run once; then every answer, padded on the
        right."""
        import torch

        pad = self.tokenizer.pad_token_id or 0
        lengths = torch.tensor([len(ids) for ids in prompts])
        width = int(lengths.max())
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
        mask = (torch.arange(width)[None, :] >= (width - lengths)[:, None]).long()
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        first = self.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
        head = torch.log_softmax(first.logits[:, -1].float(), -1)
        total = head[:, [row[0] for row in answers]]
        longest = max(map(len, answers))
        if longest == 1:
            return total
        count = len(answers)
        cache = first.past_key_values
        cache.batch_repeat_interleave(count)
        fed = torch.tensor([row[:-1] + [pad] * (longest - len(row)) for row in answers])
        wanted = torch.tensor([row[1:] + [pad] * (longest - len(row)) for row in answers])
        real = torch.tensor([[1] * (len(row) - 1) + [0] * (longest - len(row)) for row in answers])
        result = self.model(
            input_ids=fed.repeat(len(prompts), 1), past_key_values=cache, use_cache=True,
            attention_mask=torch.cat([mask.repeat_interleave(count, 0), real.repeat(len(prompts), 1)], 1),
            position_ids=(lengths[:, None] + torch.arange(longest - 1)[None, :]).repeat_interleave(count, 0))
        tail = -torch.nn.functional.cross_entropy(
            result.logits.float().flatten(0, 1), wanted.repeat(len(prompts), 1).flatten(), reduction="none")
        tail = tail.view(len(prompts), count, longest - 1) * real
        return total + tail.sum(-1)

    def bits_per_byte(self, texts: Sequence[str]) -> list[float]:
        """How many bits the model needs for each byte (UTF-8) of each text: comparable between
        vocabularies."""
        return bits_per_byte(self.model, self.tokenizer, texts, context=self.context)


def render(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The chat template applied to `messages`. A special token that a user wrote is broken up, so it stays
    text."""
    if not tokenizer.chat_template:
        raise BadInput("This model has no chat template.",
                       "choose an instruction-tuned model, or add chat_template.jinja")
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    clean = []
    for message in messages:
        content = message["content"]
        for token in special:
            if len(token) > 1:
                content = content.replace(token, f"{token[0]} {token[1:]}")
        clean.append({"role": message["role"], "content": content})
    return str(tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=True))


def bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str], *, context: int) -> list[float]:
    """Bits per byte of each text under `model`; an empty text has 0. Texts longer than the context are cut in
    pieces, each read after the begin token alone. Special tokens written in a text count as plain text."""
    import torch

    texts = list(texts)
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    pieces = [(number, ids[at:at + context - 1]) for number, ids in enumerate(encoded)
              for at in range(0, len(ids), context - 1)]
    nats = [0.0] * len(texts)
    order = sorted(range(len(pieces)), key=lambda index: len(pieces[index][1]))
    for batch in _batches(order, lambda index: len(pieces[index][1])):
        longest = max(len(pieces[index][1]) for index in batch)
        rows = torch.tensor([[begin, *pieces[index][1], *[begin] * (longest - len(pieces[index][1]))]
                             for index in batch])
        with torch.inference_mode():
            # Padding stands on the right, where no real token can see it.
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        for index, row in zip(batch, loss.view(len(batch), longest).double(), strict=True):
            nats[pieces[index][0]] += float(row[:len(pieces[index][1])].sum())
    return [n / math.log(2) / len(text.encode()) if text else 0.0 for n, text in zip(nats, texts, strict=True)]


def load_model(folder: Path, *, float32: bool = False) -> tuple[Any, Any]:
    """Model (in evaluation mode) and tokenizer of a checked folder. `float32` for training; otherwise as
    stored, with half precision widened where this processor is slow at it."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = read_json(folder / "config.json")
    stored = config.get("dtype") or config.get("torch_dtype")
    half = not float32 and stored in ("bfloat16", "float16") and bf16_is_fast()
    try:
        with quiet_libraries():
            model = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, local_files_only=True,
                dtype=torch.bfloat16 if half else torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError, SafetensorError) as error:
        raise ModelUnavailable(f"{folder} cannot be loaded as a causal language model: {str(error).splitlines()[0]}",
                               "check that it holds config.json, model.safetensors and tokenizer.json") from error
    model.eval()
    return model, tokenizer


def _with_adapter(model: Any, adapter: Path) -> Any:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    adapter = checked_folder(adapter)
    weights = load_file(str(adapter / "adapter_model.safetensors"))
    if not any(bool(torch.count_nonzero(tensor)) for name, tensor in weights.items() if "lora_B" in name):
        raise ModelUnavailable(f"The adapter in {adapter} changes nothing: its weights are all zero.", "train it again")
    with warnings.catch_warnings():
        # PEFT reads an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        tuned = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    loaded = {name.replace(".default", "") for name, _ in tuned.named_parameters() if ".default" in name}
    if missing := sorted(set(weights) - loaded):
        raise ModelUnavailable(f"The adapter in {adapter} does not fit this base model: {missing[0]} has no place.",
                               "load it on the base model it was trained on")
    merged = tuned.merge_and_unload()
    merged.eval()
    return merged


def merge(base: str | Path, adapter: Path, out: Path) -> None:
    """Write the base model with the adapter merged into it as a Hugging Face folder of its own."""
    merged = LocalModel(base, adapter=adapter)
    with quiet_libraries():
        merged.model.save_pretrained(str(out), safe_serialization=True)
    merged.tokenizer.save_pretrained(str(out))


def _batches(order: Sequence[int], size: Any) -> Iterator[list[int]]:
    """Runs of `order` (sorted by size) whose number of rows times the largest size stays within
    TOKENS_AT_ONCE."""
    batch: list[int] = []
    for index in order:
        if batch and (len(batch) + 1) * size(index) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
