"""A byte-level BPE tokenizer with a chat template, learnt from a project's own text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput

__all__ = ["CHAT_TEMPLATE", "SPECIAL", "encode_documents", "train_tokenizer", "vocabulary_for"]

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
SPECIAL = (BOS, END, PAD, "<|user|>", "<|assistant|>", "<|system|>")

# A user who writes `<|assistant|>` must not open an assistant's turn: the mark is broken up inside a message.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant', 'system'] %}"
    "{{ raise_exception('Unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] | trim | replace('<|', '< |') }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def vocabulary_for(characters: int) -> int:
    """Size of the vocabulary for so much text: 2,048 up to 300,000 characters, 4,096 above."""
    return 2048 if characters < 300_000 else 4096


def train_tokenizer(texts: Sequence[str], out: Path, *, vocabulary: int, context: int) -> Any:
    """Learn the tokenizer from `texts`, write its Hugging Face files into `out` and return it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if not any(text.strip() for text in texts):
        raise BadInput("There is no text to learn a tokenizer from.", "bucle data lists what was parsed")
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=END, pad_token=PAD, model_max_length=context,
        additional_special_tokens=[token for token in SPECIAL if token not in (BOS, END, PAD)],
        clean_up_tokenization_spaces=False, padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(out))
    # The class name that every version of transformers knows.
    settings = out / "tokenizer_config.json"
    written = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return tokenizer


def encode_documents(tokenizer: Any, texts: Iterable[str]) -> list[list[int]]:
    """Token ids of each text between `<|bos|>` and `<|end|>`.

    Every other text is cut in two as a conversation (its start is the user's turn, the rest the assistant's),
    so that the marks of the chat template are trained too. A mark written inside a text stays plain text.
    """
    bos, end, user, assistant = tokenizer.convert_tokens_to_ids([BOS, END, "<|user|>", "<|assistant|>"])
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    documents = []
    for number, ids in enumerate(rows):
        if number % 2 and len(ids) > 8:
            cut = min(len(ids) // 2, 24)
            documents.append([bos, user, *ids[:cut], end, assistant, *ids[cut:], end])
        else:
            documents.append([bos, *ids, end])
    return documents
