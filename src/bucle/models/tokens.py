"""How many tokens a text takes under a model's tokenizer, prompt and completion apart; where the tokenizer is not at
hand, an estimate with its measured range, which says that it is one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bucle.core.engine import ChatAsk
from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import Message

__all__ = ["FRAMED", "Count", "Counter", "Tokens", "about", "about_text", "counter", "decoded", "encoding_of"]

MAX_TOKENIZER = 128 * 2**20  # bytes of a tokenizer.json
MAX_TEXT = 20_000_000  # characters counted in one call
# Characters a token (2.5th, 50th and 97.5th percentile of single texts) of 240 paragraphs and 1,190 questions of XQuAD
# in each language under the vocabularies cl100k, o200k, Llama 3, Qwen 2.5 and Mistral's Tekken, 2026-11-21: the lowest
# and the highest of the five, and the middle of their medians.
CHARACTERS = {"es": (2.47, 3.9, 5.57), "en": (3.08, 4.7, 6.30), "": (2.47, 4.3, 6.30)}
# Bytes a token outside Latin script: not measured, hence its range from a token a byte down to that of CHARACTERS.
FOREIGN_BYTES = 3.0
# The framing of a chat in OpenAI's own account of it ("How to count tokens with tiktoken", openai-cookbook): three
# tokens a message beside its role and text, and three that prime the reply.
OPENAI_MESSAGE, OPENAI_REPLY = 3, 3
# The most that the chat templates of the same families (OpenAI, Llama 3, Qwen, Mistral) put around a message, its role
# included, and around the whole: an estimate counts them in, and its low end does not.
MESSAGE, WHOLE = 5, 5
FRAMED = ("o200k_base", "cl100k_base")
"""Vocabularies whose framing of a chat is published: a count under them is exact, but for hidden reasoning."""
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Count:
    """A number of tokens. Of an estimate, `low` and `high` hold 19 in 20 texts of the kind measured; else they are
    the number."""

    tokens: int
    low: int
    high: int


@dataclass(frozen=True)
class Tokens:
    """`prompt` and `completion`, counted apart. `how`: `tokenizer` (the model's own, with its chat template),
    `encoding` (its published vocabulary) or `estimate`. `note` says what is not in the count."""

    prompt: Count
    completion: Count
    how: Literal["tokenizer", "encoding", "estimate"]
    tokenizer: str
    note: str = ""


@dataclass(frozen=True)
class Counter:
    """Counts texts for one model. `text` counts one; `render` makes of messages the text that the model reads."""

    how: Literal["tokenizer", "encoding", "estimate"]
    name: str
    note: str
    text: Callable[[str], Count]
    render: Callable[[Sequence[Message]], str] | None = None

    def count(self, prompt: str | Sequence[Message], completion: str = "") -> Tokens:
        """A prompt (one text is a user's message) and a completion. Raises BadInput for a text that is too long."""
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = [{"role": m["role"], "content": _plain(m["content"])} for m in said]
        if sum(len(m["content"]) for m in messages) + len(completion) > MAX_TEXT:
            raise BadInput(f"The text has more than {MAX_TEXT:,} characters.", "count it in parts")
        if self.render is not None:
            asked = self.text(self.render(messages))
        else:
            parts = [self.text(m["content"]) for m in messages]
            least, extra = self._framing(messages)
            asked = Count(sum(p.tokens for p in parts) + extra, sum(p.low for p in parts) + least,
                          sum(p.high for p in parts) + extra)
        return Tokens(asked, self.text(_plain(completion)), self.how, self.name, self.note)

    @property
    def _chat(self) -> bool:
        return self.how == "encoding" and self.name in FRAMED

    def _framing(self, messages: Sequence[Message]) -> tuple[int, int]:
        """Tokens that the framing of a chat adds, at least and at most."""
        if self.how == "estimate":
            return 0, MESSAGE * len(messages) + WHOLE
        if not self._chat:
            return 0, 0
        exact = sum(OPENAI_MESSAGE + self.text(m["role"]).tokens for m in messages) + OPENAI_REPLY
        return exact, exact


def counter(model: str, *, folder: Path | None = None, language: str = "") -> Counter:
    """The best counter at hand for `model` (a provider's name of it): the tokenizer in `folder` where that is given,
    else its published vocabulary (OpenAI's, gpt-oss, Llama 3, Qwen 2 to 3: the extra `bucle[tokens]`, offline), else an
    estimate by characters. `language` (`es`, `en`) narrows the estimate."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        return _from_folder(folder)
    encoding = encoding_of(model)
    if encoding:
        try:
            from quicktok import get_encoding
        except ImportError:
            return _estimate(language, f"pip install 'bucle[tokens]' counts {model} exactly")
        vocabulary = get_encoding(encoding)

        def exact(text: str) -> Count:
            n = len(vocabulary.encode_ordinary(text)) if text else 0
            return Count(n, n, n)

        framed = encoding in FRAMED
        return Counter("encoding", encoding, "hidden reasoning is not in it" if framed else
                       "the chat template, a few tokens a message, is not in it", exact)
    return _estimate(language, "no tokenizer of it is at hand")


def decoded(rows: Sequence[Sequence[int]], encoding: str) -> list[str] | None:
    """The texts of token ids under a published vocabulary; None where the extra `bucle[tokens]` is not installed, or
    one of them is no token of it."""
    try:
        from quicktok import get_encoding
    except ImportError:
        return None
    vocabulary = get_encoding(encoding)
    try:
        return [vocabulary.decode(list(row)) for row in rows]
    except Exception:  # of whatever kind the library's own are
        return None


def encoding_of(model: str) -> str:
    """The published vocabulary that a model's name stands for, or empty where that is not known for sure."""
    last = model.lower().rpartition("/")[2]
    for encoding, pattern in (
        ("o200k_harmony", r"gpt-oss"),
        ("o200k_base", r"(ft:)?(chatgpt-4o|gpt-4o|gpt-4[.]1|gpt-4[.]5|gpt-5(?![.]\d)|o[134](-|$))"),
        ("cl100k_base", r"(ft:)?(gpt-4(?![.o\d])|gpt-3[.]5|gpt-35|text-embedding-(3|ada-002))"),
        ("llama3", r"(meta-)?llama-?3([.-][123])?(?![\d.])"),
        ("qwen3", r"qwen-?(2|2[.]5|3)(?![.\d])"),
    ):
        if re.match(pattern, last):
            return encoding
    return ""


def about(ask: ChatAsk) -> int:
    """Tokens of what is asked (messages, calls, tools, schema), estimated from its characters: the middle of what was
    measured."""
    texts = [ask.prompt] if ask.prompt is not None else [str(m.get("content") or "") for m in ask.messages]
    texts += [str(m["tool_calls"]) for m in ask.messages if m.get("tool_calls")]
    texts += [str(tool) for tool in ask.tools] + ([str(ask.schema)] if ask.schema else [])
    return sum(map(about_text, texts)) + WHOLE + MESSAGE * len(ask.messages)


def about_text(text: str) -> int:
    """Tokens of a text of whatever language, estimated from its characters; 0 of none."""
    return _ANY.text(text).tokens


def _from_folder(folder: Path) -> Counter:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.stat().st_size > MAX_TOKENIZER:
        raise ModelUnavailable(f"{path} is larger than {MAX_TOKENIZER // 2**20} MB.", "that is no tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ModelUnavailable(f"{path} is not a tokenizer: {str(error)[:200]}.", "copy the model again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def exact(text: str) -> Count:
        n = len(tokenizer.encode(text, add_special_tokens=False).ids) if text else 0
        return Count(n, n, n)

    render = _renderer(folder)
    note = "" if render else "it has no chat template: the text alone"
    return Counter("tokenizer", folder.name, note, exact, render)


def _renderer(folder: Path) -> Callable[[Sequence[Message]], str] | None:
    """What the model's own chat template makes of messages, as `LocalModel.render` does without loading the model."""
    from bucle.models.folder import chat_template, read_json

    template, config = chat_template(folder), read_json(folder / "tokenizer_config.json")
    if not template:
        return None
    named = {key: token for key in _SPECIAL if (token := _token(config.get(key)))}
    listed = [*_listed(config.get("additional_special_tokens")), *_listed(config.get("extra_special_tokens"))]
    special = sorted({*named.values(), *listed}, key=len, reverse=True)

    def render(messages: Sequence[Message]) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        clean = []
        for message in messages:
            content = message["content"]
            for token in special:
                if len(token) > 1:  # a special token that a user wrote is broken up, so it stays text
                    content = content.replace(token, f"{token[0]} {token[1:]}")
            clean.append({"role": message["role"], "content": content})
        try:
            made = render_jinja_template(conversations=[clean], chat_template=template, add_generation_prompt=True,
                                         **named)
        except Exception as error:  # whatever a template of unknown origin raises
            raise BadInput(f"The chat template of {folder.name} refuses this conversation: {str(error)[:200]}.",
                           "write the roles in the order that the model knows") from error
        rendered = made[0] if isinstance(made, tuple) else made
        return str(rendered[0])

    return render


def _token(value: Any) -> str:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else ""


def _listed(value: Any) -> list[str]:
    found = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [token for item in found if (token := _token(item))]


def _plain(text: str) -> str:
    """Without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def _estimate(language: str, note: str) -> Counter:
    least, middle, most = CHARACTERS.get(language, CHARACTERS[""])

    def guess(text: str) -> Count:
        if not text:
            return Count(0, 0, 0)
        size = len(text.encode("utf-8", "replace"))
        if _foreign(text):
            return Count(max(1, round(size / FOREIGN_BYTES)), max(1, int(len(text) / most)), size)
        low, high = max(1, int(len(text) / most)), min(size, int(len(text) / least) + 1)
        return Count(min(max(low, round(len(text) / middle)), high), low, high)

    return Counter("estimate", "characters", f"an estimate: {note}", guess)


def _foreign(text: str) -> bool:
    """Whether a fifth or more of a text's characters are outside Latin script and its marks."""
    sample = text[:10_000]
    return sum(ord(c) > 0x24F and not 0x2010 <= ord(c) <= 0x20BF for c in sample) >= len(sample) / 5


_ANY = _estimate("", "")
