"""What a search for a better prompt tries: instructions and sets of demonstrations, without asking anybody for a score.

Instructions come from a model that is shown examples, failures and the scores of earlier ones (Zhou et al. 2022,
arXiv:2211.01910; Yang et al. 2023, arXiv:2309.03409), from the words that are typical of each label, and from fixed
rephrasings. Demonstrations are chosen for each input, or are fixed sets of training rows, among them those that the
model itself answered right (bootstrapped, Khattab et al. 2023, arXiv:2310.03714) or wrong. Which of them go together is
learned from the trials, as Opsahl-Ong et al. (2024, arXiv:2406.11695) do it jointly, here by an additive model.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.prompting import PromptSpec, Shots
from bucle.core.records import Example
from bucle.customise.classic.features import fit_tfidf, tfidf_matrix
from bucle.customise.prompt.classify import INSTRUCTIONS
from bucle.customise.prompt.instructions import language_of, system_for
from bucle.models.ask import Ask

__all__ = ["PROPOSALS", "Demos", "Instruction", "best_pairs", "demonstrations", "proposal_ask", "proposals",
           "rephrasings", "started", "with_parts"]

PROPOSALS = {
    "type": "object",
    "properties": {"instructions": {"type": "array", "minItems": 1, "maxItems": 12,
                                    "items": {"type": "string", "minLength": 8, "maxLength": 3000}}},
    "required": ["instructions"],
}
SHOWN, CUT = 6, 400
"""Rows of each sort that a proposer sees, and the most characters of each."""
WORDS = 4  # typical words of a label
PROPOSAL_TOKENS = 1200
_ADDED = {
    "es": (
        "Lee todo el texto antes de responder y fíjate en lo que la persona quiere conseguir, no en palabras sueltas.",
        "Sigue exactamente el formato que se pide: nada antes ni después de la respuesta.",
        "Si dudas entre dos respuestas, elige la más concreta de las que encajan.",
        "Haz lo que haría una persona experta de este servicio: con precisión y sin inventar nada.",
        "Comprueba tu respuesta contra el texto antes de darla.",
        "Fíjate en cómo responden los ejemplos y responde del mismo modo.",
    ),
    "en": (
        "Read the whole text before you answer, and look at what the person wants to achieve, not at single words.",
        "Keep exactly to the form that is asked for: nothing before or after the answer.",
        "When in doubt between two answers, take the more specific one that fits.",
        "Do what an expert of this service would do: precisely, and without making anything up.",
        "Check your answer against the text before you give it.",
        "Look at how the examples answer, and answer in the same way.",
    ),
}
_ASKED = {
    "es": "Mejoras instrucciones para un modelo de lenguaje. La tarea: {task}. La instrucción de ahora:\n{now}\n\n"
          "Ejemplos de entrada y respuesta correcta:\n{examples}\n{failures}{history}\n"
          "Escribe {n} instrucciones nuevas, distintas entre sí, que puedan hacer responder mejor; explica lo que los "
          "fallos muestran que no se entiende. No copies los ejemplos. Conserva tal cual lo que esté entre llaves "
          "dobles. Responde solo con un objeto JSON: {{\"instructions\": [\"…\"]}}",
    "en": "You improve instructions for a language model. The task: {task}. The instruction as it is:\n{now}\n\n"
          "Examples of input and right answer:\n{examples}\n{failures}{history}\n"
          "Write {n} new instructions, unlike each other, that may make it answer better; explain what the failures "
          "show to be misunderstood. Do not copy the examples. Keep what stands in double braces as it is. Answer with "
          "one JSON object only: {{\"instructions\": [\"…\"]}}",
}
_SAID = {"es": ("Fallos", "respondió", "lo correcto", "Instrucciones probadas, con su nota (más es mejor)",
                "Palabras frecuentes en cada categoría"),
         "en": ("Failures", "it answered", "right is", "Instructions tried, with their score (more is better)",
                "Words that are frequent in each category")}
_VARIABLE = re.compile(r"\{\{-?\s*([A-Za-z]\w*)\s*-?\}\}")


@dataclass(frozen=True)
class Instruction:
    """The system message of a trial and where it comes from."""

    text: str
    origin: str


@dataclass(frozen=True)
class Demos:
    """The examples of a trial and where they come from; None: those of the prompt as it is."""

    shots: Shots | None
    origin: str


def started(kind: str, name: str, params: Mapping[str, Any]) -> PromptSpec:
    """The prompt of a task that has none of its own yet, as the technique tells the model today."""
    language = language_of(params)
    if kind == "classify":
        told = str(params.get("instruction") or INSTRUCTIONS[language])
    elif kind == "answer":
        told = str(params.get("instruction") or "")
    else:
        bare = {name: value for name, value in params.items() if name not in ("voice", "schema")}
        told = system_for(kind, bare)
    safe = re.sub(r"\W+", "-", name).strip("-_.")[:60] or "prompt"
    return PromptSpec.model_validate({"name": safe, "language": language, "system": _literal(told)})


def with_parts(spec: PromptSpec, instruction: Instruction, demos: Demos) -> PromptSpec:
    """`spec` with another system message and other examples."""
    changes: dict[str, Any] = {"system": instruction.text}
    if demos.shots is not None:
        changes["shots"] = demos.shots
    return spec.model_copy(update=changes)


def rephrasings(spec: PromptSpec, kind: str, train: Sequence[Example], language: str) -> list[Instruction]:
    """What can be said otherwise without a model: the typical words of each label, and fixed additions."""
    found = []
    if kind == "classify" and (words := _typical_words(train)):
        lines = "\n".join(f"- {label}: {', '.join(some)}" for label, some in words.items())
        told = f"{spec.system}\n{_SAID[language][4]}:\n{_literal(lines)}"
        found.append(Instruction(told, "typical words of each label"))
    found += [Instruction(f"{spec.system}\n{more}", f"rephrasing {n}") for n, more in enumerate(_ADDED[language], 1)]
    return found


def demonstrations(kind: str, count: int, train: Sequence[Example], right: Sequence[Example], wrong: Sequence[Example],
                   seed: int) -> list[Demos]:
    """Sets of `count` examples to try beside those in force: chosen for each input, or fixed rows of `train`; `right`
    and `wrong` are those that the model answered so."""
    import numpy as np

    rng = np.random.default_rng(seed)
    more = min(2 * count, 100)
    found = [
        Demos(Shots(count=count, choose="diverse"), f"{count} diverse"),
        Demos(Shots(count=count, choose="nearest"), f"{count} nearest"),
        Demos(Shots(count=count, choose="fixed"), f"{count} typical"),
        Demos(Shots(count=more, choose="nearest"), f"{more} nearest"),
        Demos(Shots(count=more, choose="diverse"), f"{more} diverse"),
    ]
    for rows, origin in ((right, "answered right"), (wrong, "answered wrong"), (train, "drawn at random")):
        able = [row for row in rows if row.target]
        if len(able) < 2:
            continue
        drawn = [able[int(i)] for i in rng.permutation(len(able))]
        some = _one_of_each(drawn, count) if kind == "classify" else drawn[:count]
        ids = tuple(row.id for row in some)
        found.append(Demos(Shots(count=len(ids), choose="fixed", rows=ids), f"{len(ids)} {origin}"))
    return found


def proposal_ask(spec: PromptSpec, kind: str, language: str, *, examples: Sequence[Example],
                 failures: Sequence[tuple[Example, str]], history: Sequence[tuple[str, float]], n: int,
                 seed: int) -> Ask:
    """What a model is asked so that it proposes `n` instructions: examples and failures of training rows, and the
    instructions tried before with their score, the best last (Yang et al. 2023)."""
    fault, said, right, tried, _ = _SAID[language]
    shown = "\n".join(f"- {_short(e.input)} -> {_short(str(e.target))}" for e in examples[:SHOWN])
    wrong = "\n".join(f"- {_short(e.input)}: {said} {_short(output)!r}, {right} {_short(str(e.target))!r}"
                      for e, output in failures[:SHOWN])
    before = "\n".join(f"{100 * score:.1f}: {_short(text)}" for text, score in sorted(history, key=lambda h: h[1])[-8:])
    text = _ASKED[language].format(
        task=kind, now=spec.system[:4000], examples=shown, n=n,
        failures=f"\n{fault}:\n{wrong}\n" if wrong else "", history=f"\n{tried}:\n{before}\n" if before else "",
    )
    return Ask(({"role": "user", "content": text},), PROPOSAL_TOKENS, 0.7, seed=seed)


def proposals(reply: Mapping[str, Any], spec: PromptSpec, origin: str) -> list[Instruction]:
    """The instructions in a proposer's reply that may become templates: what it wrote is read as text, never as a
    template; the prompt's own variables stay variables, and one that forgets any of them is left out."""
    needed = set(_VARIABLE.findall(spec.system))
    found: list[Instruction] = []
    for text in reply.get("instructions", []):
        said = str(text).strip()
        named = set(_VARIABLE.findall(said))
        rest = _VARIABLE.sub("", said)
        if not needed <= named or not named <= {*spec.inputs, "input"} or re.search(r"\{[{%#]", rest):
            continue
        if said and said != spec.system.strip() and said not in [one.text for one in found]:
            found.append(Instruction(said, origin))
    return found


def best_pairs(scores: Mapping[tuple[int, int], float], instructions: int, demos: int,
               most: int) -> list[tuple[int, int]]:
    """Untried pairs of an instruction and a set of demonstrations, the most promising first, `most` of them: a pair is
    worth the mean of all trials plus what its instruction and its demonstrations added in theirs (shrunk by one trial);
    one that was in no trial counts as the mean."""
    if not scores:
        return []
    mean = sum(scores.values()) / len(scores)
    adds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for (i, d), score in scores.items():
        adds["i", i].append(score - mean)
        adds["d", d].append(score - mean)

    def worth(pair: tuple[int, int]) -> float:
        parts = (adds.get(("i", pair[0]), []), adds.get(("d", pair[1]), []))
        return sum(sum(part) / (len(part) + 1) for part in parts)

    untried = [(i, d) for i in range(instructions) for d in range(demos) if (i, d) not in scores]
    return sorted(untried, key=lambda pair: (-round(worth(pair), 9), pair))[:most]


def _typical_words(train: Sequence[Example]) -> dict[str, list[str]]:
    """For each label the words that tell it from the others most, by mean TF-IDF; none with more than 60 labels."""
    import numpy as np

    rows = [row for row in train if row.target]
    labels = sorted({str(row.target) for row in rows})
    if not 2 <= len(labels) <= 60:
        return {}
    try:
        vectorizers = fit_tfidf([row.input for row in rows])
    except BadInput:
        return {}
    words = vectorizers[0]
    matrix = tfidf_matrix([words], [row.input for row in rows])
    names = words.get_feature_names_out()
    total = np.asarray(matrix.mean(axis=0)).ravel()
    found = {}
    for label in labels:
        own = np.asarray(matrix[[i for i, row in enumerate(rows) if row.target == label]].mean(axis=0)).ravel()
        order = np.argsort(-np.round(own - total, 9), kind="stable")
        found[label] = [str(names[i]) for i in order if len(names[i]) > 3 and " " not in names[i]][:WORDS]
    return found


def _one_of_each(rows: Sequence[Example], count: int) -> list[Example]:
    """`count` of `rows`, label by label in turn."""
    groups: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        groups[str(row.target)].append(row)
    turns = max(map(len, groups.values()))
    return [group[turn] for turn in range(turns) for group in groups.values() if turn < len(group)][:count]


def _literal(text: str) -> str:
    """A text that says the same as a template: braces that would begin one are parted."""
    return re.sub(r"\{(?=[{%#])", "{ ", text)


def _short(text: str) -> str:
    one = " ".join(text.split())
    return json.dumps(one if len(one) <= CUT else one[:CUT] + "…", ensure_ascii=False)
