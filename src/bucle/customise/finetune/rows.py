"""From examples to training rows: what the model reads, and which of it is trained. One place, so that the
batch that `bucle tune --show-batch` prints is the batch that is trained and the prompt that is served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Example

__all__ = ["Row", "Rows", "build_rows", "check_rows", "continuation", "prompt_for", "show_batch"]

IGNORED = -100
INSTRUCTION = "Classify:"


@dataclass(frozen=True)
class Row:
    """Token ids of one example; the last `answer` of them are trained."""

    example: str
    ids: tuple[int, ...]
    answer: int

    @property
    def labels(self) -> list[int]:
        """The ids, with -100 (not trained) for the prompt."""
        cut = len(self.ids) - self.answer
        return [IGNORED] * cut + list(self.ids[cut:])


@dataclass(frozen=True)
class Rows:
    """Rows to train on; how many had their message cut to fit; how many examples were left out, by reason."""

    rows: tuple[Row, ...]
    truncated: int
    dropped: Mapping[str, int]


def prompt_for(tokenizer: Any, text: str, instruction: str) -> str:
    """The prompt of one message: the instruction and the message as the user's turn of the model's chat
    template."""
    from bucle.models.local import render

    return render(tokenizer, [{"role": "user", "content": f"{instruction} {text}".strip()}])


def continuation(tokenizer: Any, label: str, instruction: str) -> str:
    """What the model is to write for `label`: as the template renders an assistant's turn, up to its end
    token.

    Raises BadInput where the template renders a prompt otherwise when an answer follows it.
    """
    prompt = prompt_for(tokenizer, "x", instruction)
    turns = [{"role": "user", "content": f"{instruction} x".strip()}, {"role": "assistant", "content": label}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
    if not whole.startswith(prompt):
        raise BadInput("This model's chat template renders a prompt differently once it is answered.",
                       "give the model a template whose prompt is a prefix of the whole conversation")
    return whole[len(prompt):].rstrip()


def build_rows(tokenizer: Any, examples: Sequence[Example], labels: Sequence[str], *, instruction: str,
               context: int) -> Rows:
    """The training rows of `examples`, in order. A message too long for `context` tokens loses its beginning.

    Raises BadInput for a target that is not one of `labels`, and where an answer alone would not fit.
    """
    known = {label: tokenizer(continuation(tokenizer, label, instruction), add_special_tokens=False)["input_ids"]
             for label in labels}
    rows, dropped, truncated = [], Counter[str](), 0
    for example in examples:
        if example.target is None:
            dropped["no target"] += 1
            continue
        if not example.input.strip():
            dropped["empty input"] += 1
            continue
        if example.target not in known:
            raise BadInput(f"{example.source or example.id} has an unknown label: {example.target!r}.",
                           f"the labels are: {', '.join(labels)}")
        answer = known[example.target]
        prompt = tokenizer(prompt_for(tokenizer, example.input, instruction), add_special_tokens=False,
                           verbose=False)["input_ids"]
        room = context - len(answer)
        if room < 8:
            raise BadInput(f"The label {example.target!r} has {len(answer)} tokens and would be cut at {context}.",
                           "shorten the label, or choose a model with a longer context")
        if len(prompt) > room:
            begin = prompt[:1] if prompt[0] == tokenizer.bos_token_id else []
            prompt = begin + prompt[len(prompt) - room + len(begin):]
            truncated += 1
        rows.append(Row(example.id, (*prompt, *answer), len(answer)))
    return Rows(tuple(rows), truncated, dict(dropped))


def check_rows(rows: Rows, end_ids: Collection[int], held_out: Collection[str] = ()) -> None:
    """Refuse to train on rows that cannot teach what they should. Raises BadInput with what to do."""
    if not rows.rows:
        raise BadInput(f"No row is left to train on ({dict(rows.dropped)}).", "bucle explore shows the examples")
    if any(row.answer < 1 for row in rows.rows):
        raise BadInput("A row has no trained token.", "every example needs a label")
    if not any(row.ids[-1] in end_ids for row in rows.rows):
        raise BadInput("The end token is never trained: the model would not know when to stop.",
                       "the chat template must close the assistant's turn with the tokenizer's eos_token")
    if leaked := sorted({row.example for row in rows.rows} & set(held_out)):
        raise BadInput(f"{len(leaked)} held-out examples are among the training rows, {leaked[0]} first.",
                       "bucle explore shows what stands on both sides")


def show_batch(examples: Sequence[Example], base: Path, params: Mapping[str, Any],
               labels: Sequence[str] = ()) -> list[str]:
    """One text an example: every token as the model reads it, the trained ones between ⟦ and ⟧.

    Exactly the rows that `full` and `lora` train on. `labels` defaults to those of the examples. Raises
    BadInput as training would.
    """
    from transformers import AutoTokenizer

    from bucle.models.cpu import quiet_libraries
    from bucle.models.folder import checked_folder, read_json

    folder = checked_folder(base)
    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    known = list(labels) or sorted({example.target for example in examples if example.target is not None})
    context = read_json(folder / "config.json").get("max_position_embeddings") or 2048
    rows = build_rows(tokenizer, examples, known, instruction=params.get("instruction", INSTRUCTION), context=context)
    check_rows(rows, {tokenizer.eos_token_id})
    shown = []
    for row in rows.rows:
        pieces = [str(tokenizer.decode([token])) for token in row.ids]
        cut = len(row.ids) - row.answer
        shown.append("".join(pieces[:cut]) + "".join(f"⟦{piece}⟧" for piece in pieces[cut:]))
    return shown
