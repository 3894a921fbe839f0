"""Cleaning a task's rows one at a time: what is kept in memory of a row is a few bytes, so that millions may pass."""

from __future__ import annotations

import hashlib
import itertools
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bucle.core.config import Rows
from bucle.core.records import Example, TaskKind
from bucle.data.kinds import language_of, plain, said
from bucle.data.language import is_other
from bucle.data.leaves import leaves, mapped
from bucle.data.names import NameFinder
from bucle.data.personal import Action, Finding, apply, find
from bucle.data.similar import normal_form

if TYPE_CHECKING:
    from bucle.data.similar import NearIndex

__all__ = ["RowCleaner", "RowRemoval"]

_AT_ONCE = 256
_ODD, _ALL_ONES = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF
_DIGITS = 11
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class RowRemoval:
    """A row left out. `reason`: `too-short`, `too-long`, `language`, `exact-duplicate`, `near-duplicate` or
    `personal-data`; `kept`: of a duplicate, the source of the row that stays."""

    id: str
    source: str
    reason: str
    detail: str
    kept: str = ""


class RowCleaner:
    """Cleans rows in the order they come; the same rows in the same order give the same result.

    `rows` is bucle.yaml's `data.rows`, `languages` its `data.languages` (a row goes only where it is surely in
    another), `personal` and `personal_key` are personal.apply's policy and key (`drop` takes the whole row),
    `near_duplicates` the similarity for `duplicates: near`, `names` a finder of people's names, `restored` the ids
    that stay whatever is found. Personal data are treated in the input, in a target that is a text, and inside the
    strings of JSON (conversations, objects to extract, checks), which stays JSON; a label of a `classify` task and the
    document names of `retrieve` are left as they are. Tests of a `code` task cannot be masked and still test the same:
    a row that has personal data in them goes. Secrets always go from the texts, their rows stay.

    After or between rows: `personal` counts findings by kind, `removed` rows by reason, `conflicts` is how often a text
    came again with another target, `seen` all rows.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        kind: TaskKind = "classify",
        languages: Sequence[str] = (),
        personal: Mapping[str, Action] | None = None,
        personal_key: str = "",
        near_duplicates: float = 0.85,
        names: NameFinder | None = None,
        restored: frozenset[str] = frozenset(),
    ) -> None:
        self._rows, self._kind, self._languages = rows, kind, tuple(languages)
        self._policy, self._key, self._names, self._restored = dict(personal or {}), personal_key, names, restored
        apply("", self._policy, key=personal_key)  # a policy that cannot be meant is refused before the first row
        self._texts: dict[int, int] = {}  # digest of a text -> the number of the first row with it
        self._others: dict[int, int] = {}  # digest of text and target, where the text's first row has another target
        self._targets = array("Q")  # by number, as digests
        self._places = array("q")  # by number
        self._sources = _Sources()
        self._near_duplicates = near_duplicates
        self._near: dict[str | None, NearIndex] = {}  # by label: another label is no copy
        self._nears: dict[str | None, array[int]] = {}
        self.personal: Counter[str] = Counter()
        self.removed: Counter[str] = Counter()
        self.conflicts = 0
        self.seen = 0

    def check(self, example: Example) -> Example | RowRemoval:
        """`example` with its personal data treated, or why it goes. Raises what NameFinder.find raises."""
        return self._pass([example])[0]

    def clean(self, examples: Iterable[Example]) -> Iterator[Example | RowRemoval]:
        """check over many rows, in batches: several times as fast for near duplicates and names."""
        batch: list[Example] = []
        for example in examples:
            batch.append(example)
            if len(batch) == _AT_ONCE:
                yield from self._pass(batch)
                batch = []
        yield from self._pass(batch)

    def remember(self, examples: Sequence[Example]) -> None:
        """Takes note of rows that were cleaned before a kill, as check would, without treating them again."""
        self._gone(examples)

    def _pass(self, batch: Sequence[Example]) -> list[Example | RowRemoval]:
        removed = self._gone(batch)
        left = [example for example, gone in zip(batch, removed, strict=True) if not gone]
        names: Iterator[_Names] = iter(self._people(left)) if self._names and left else itertools.repeat({})
        return [gone or self._treated(example, next(names)) for example, gone in zip(batch, removed, strict=True)]

    def _gone(self, batch: Sequence[Example]) -> list[RowRemoval | None]:
        """Why each row goes before its personal data are looked at; None where it stays."""
        removed: list[RowRemoval | None] = []
        near: dict[str | None, list[int]] = {}
        for at, example in enumerate(batch):
            self.seen += 1
            kept = example.id in self._restored
            told = None if kept else self._unfit(example.input)
            if not told and (again := self._repeated(example)) and not kept:
                removed.append(self._remove(example, "exact-duplicate", f"the same as {again}", again))
            elif told:
                removed.append(self._remove(example, *told))
            else:
                removed.append(None)
                if self._rows.duplicates == "near":
                    near.setdefault(example.target if self._kind == "classify" else None, []).append(at)
        for target, places in near.items():
            self._drop_near(target, places, batch, removed)
        return removed

    def _drop_near(
        self, target: str | None, places: Sequence[int], batch: Sequence[Example], removed: list[RowRemoval | None]
    ) -> None:
        """Marks those of one label that are nearly the same as an earlier row of it."""
        from bucle.data.similar import NearIndex

        index = self._near.setdefault(target, NearIndex(self._near_duplicates))
        firsts = self._nears.setdefault(target, array("q"))
        texts = [plain(self._kind, batch[at].input) for at in places]
        if self._kind != "classify":
            texts = [
                f"{text}\n{said(self._kind, batch[at]) or ''}" for text, at in zip(texts, places, strict=True)
            ]
        for at, like in zip(places, index.add_many(texts), strict=True):
            example = batch[at]
            firsts.append(self._sources.number(example.source or example.id))
            if like is not None and example.id not in self._restored:
                first = self._sources.name(firsts[like])
                removed[at] = self._remove(example, "near-duplicate", f"nearly the same as {first}", first)

    def _treated(self, example: Example, names: _Names) -> Example | RowRemoval:
        texts, found = self._treat(example, names, self._policy)
        if self._kind == "code" and (kinds := self._in_tests(example)):
            return self._remove(example, "personal-data", f"{', '.join(kinds)} in the tests: masked, they test another")
        if not found:
            return example
        dropped = sorted({one.kind for one in found if self._action(one.kind) == "drop"} - {"secret"})
        if dropped and example.id not in self._restored:
            return self._remove(example, "personal-data", ", ".join(dropped))
        if dropped:  # restored: the row stays, its data do not
            texts, _ = self._treat(example, names, {**self._policy, **dict.fromkeys(dropped, "mask")})
        self.personal.update(one.kind for one in found)
        return example.model_copy(update=texts)

    def _treat(
        self, example: Example, names: _Names, policy: Mapping[str, Action]
    ) -> tuple[dict[str, str], list[Finding]]:
        """The texts of a row that change, by field, and what was found in all of them."""
        found: list[Finding] = []
        known: dict[str, Finding] = {}  # what the input holds; an object extracted from it holds the same
        changed: dict[str, str] = {}

        def one(text: str, own: Sequence[Finding]) -> str:
            if text in known and not own:
                own = [replace(known[text], start=0, end=len(text))]
            if not own and not find(text):
                return text
            new, more = apply(text, policy, key=self._key, names=own)
            found.extend(more)
            return new

        def number(value: int) -> Any:
            text = str(value)
            if text not in known or policy.get(known[text].kind, "mask") == "keep":
                return value
            return one(text, ())

        for field, text, is_json in _texts(self._kind, example):
            people = iter(names.get(field, ()))

            def change(leaf: str, people: Iterator[Sequence[Finding]] = people) -> str:
                return one(leaf, next(people, ()))

            new = mapped(text, change, is_json=is_json, number=number)
            if new != text:
                changed[field] = new
            if field == "input" and self._kind == "extract":
                known = {form: f for f in found for form in (f.text, re.sub(r"[\s.+()-]", "", f.text))}
        return changed, found

    def _in_tests(self, example: Example) -> list[str]:
        """Kinds of personal data in the tests of a row that may not stay there."""
        kinds = {one.kind for one in find(example.target or "") if self._action(one.kind) != "keep"}
        return sorted(kinds & {"secret"} if example.id in self._restored else kinds)

    def _unfit(self, written: str) -> tuple[str, str] | None:
        text = plain(self._kind, written)
        if len(text) > self._rows.max_characters:
            return "too-long", f"{len(text)} characters against max_characters {self._rows.max_characters}"
        least = self._rows.min_words
        if least and sum(1 for _ in zip(range(least), _WORD.finditer(text), strict=False)) < least:
            return "too-short", f"{len(_WORD.findall(text))} words against min_words {least}"
        prose = language_of(self._kind, written) if self._languages else None
        if prose and (other := is_other(prose, self._languages)):
            return "language", other
        return None

    def _repeated(self, example: Example) -> str:
        """The first row with the same text and target, where duplicates go. Counts a text with another target."""
        form = _form(plain(self._kind, example.input))
        target = example.target if example.target is not None else "\0"
        if self._kind not in ("classify", "extract", "code"):  # where a sign more or less says something else
            target = _form(target)
        if self._kind not in ("classify", "answer"):
            target = "\0".join((target, example.document, example.checks))
        text_key, target_key = _digest(form), _digest(target)
        if not form:
            return ""
        first = self._texts.setdefault(text_key, len(self._targets))
        if first < len(self._targets) and self._targets[first] != target_key:
            self.conflicts += 1
            first = self._others.setdefault(text_key ^ (target_key * _ODD & _ALL_ONES), len(self._targets))
        if first < len(self._targets):
            return "" if self._rows.duplicates == "keep" else self._sources.name(self._places[first])
        self._targets.append(target_key)
        self._places.append(self._sources.number(example.source or example.id))
        return ""

    def _action(self, kind: str) -> str:
        return "drop" if kind == "secret" else self._policy.get(kind, "mask")

    def _remove(self, example: Example, reason: str, detail: str, kept: str = "") -> RowRemoval:
        self.removed[reason] += 1
        return RowRemoval(example.id, example.source, reason, detail, kept)

    def _people(self, examples: Sequence[Example]) -> list[_Names]:
        """Names in the texts of each row, by field and string."""
        assert self._names is not None  # noqa: S101
        places: list[tuple[int, str]] = []
        texts: list[str] = []
        for at, example in enumerate(examples):
            for field, text, is_json in _texts(self._kind, example):
                inside = leaves(text, is_json=is_json)
                places += [(at, field)] * len(inside)
                texts += inside
        made: list[_Names] = [{} for _ in examples]
        for (at, field), names in zip(places, self._names.find(texts), strict=True):
            made[at].setdefault(field, []).append(names)
        return made


_Names = dict[str, list[Sequence[Finding]]]
"""Field -> people's names in each of its strings."""


def _texts(kind: TaskKind, example: Example) -> Iterator[tuple[str, str, bool]]:
    """The fields of a row that are texts of people, and whether each is JSON."""
    yield "input", example.input, kind == "converse"
    if example.target and kind not in ("classify", "code"):
        yield "target", example.target, kind == "extract"
    if example.checks:
        yield "checks", example.checks, True


class _Sources:
    """Many names such as `file.jsonl:123` as numbers of eight bytes."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._odd: list[str] = []

    def number(self, name: str) -> int:
        file, _, line = name.rpartition(":")
        if not (file and line.isascii() and line.isdigit() and len(line) < _DIGITS and line[0] != "0"):
            self._odd.append(name)
            return -len(self._odd)
        return self._files.setdefault(file, len(self._files)) * 10**_DIGITS + int(line)

    def name(self, number: int) -> str:
        if number < 0:
            return self._odd[-number - 1]
        file, line = divmod(number, 10**_DIGITS)
        return f"{list(self._files)[file]}:{line}"


def _form(text: str) -> str:
    """similar.normal_form, without its detour for plain text."""
    return " ".join(_WORD.findall(text.casefold())) if text.isascii() else normal_form(text)


def _digest(text: str) -> int:
    """64 bits: among a million texts two that differ meet once in 37 million runs."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
