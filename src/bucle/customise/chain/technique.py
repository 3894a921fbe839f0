"""A chain as a candidate: kept whole with the files that it uses, answered as any other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, ConfigError, ModelUnavailable
from bucle.core.ids import sha256_hex
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Prediction

if TYPE_CHECKING:
    from bucle.customise.chain.run import Chain
    from bucle.customise.chain.spec import ChainSpec

__all__ = ["ChainPredictor", "ChainTechnique"]

UPSTREAM = frozenset({"ModelUnavailable", "UpstreamTimeout", "RateLimited", "Refused"})
WEIGHTS = "fusion.json"
OWN_FAULT = 0.05
"""The share of rows that may fail for want of an answer before the measuring stops; as in models.ask."""


class ChainTechnique:
    """A chain of the team's: what it is, and the Python that it calls, is kept with it. Only the fusion of its searches
    is fitted, to the task's questions."""

    name = "chain"
    version = 2
    kinds = frozenset({"classify", "answer", "summarise", "translate", "extract", "generate", "instruct", "converse",
                       "code"})
    needs: frozenset[str] = frozenset()
    rung = 5
    baseline = False
    when = "When one call is not enough: search, look up, decide and write in steps that each can be seen."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes `chain.json` and the project's Python files that it uses, after checking that everything it needs is
        there. Returns how many steps of each kind it has. Raises ConfigError."""
        from bucle.customise.chain.spec import RetrieveStep, all_steps

        spec = _spec(ctx.params)
        for name, digest in spec.files.items():
            if not name.endswith(".py"):
                continue
            if ctx.project is None or not (path := ctx.project / name).is_file():
                raise ConfigError(f"The chain `{spec.name}` uses {name}, which is not there.", "bucle chain show NAME")
            source = path.read_bytes()
            if sha256_hex(source) != digest:
                raise ConfigError(f"{name} has changed since the chain `{spec.name}` was read.", "Run it again.")
            target = ctx.out / "own" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source)
        (ctx.out / "chain.json").write_text(spec.model_dump_json(), "utf-8")
        loading = LoadContext(labels=ctx.labels, params=ctx.params, seed=ctx.seed, index=ctx.index, encoder=ctx.encoder,
                              kind=ctx.kind, models=ctx.models, reranker=ctx.reranker, project=ctx.project,
                              trusted=ctx.trusted, extra={"fitting": True})
        opened = self._load(spec, ctx.out, loading)
        opened.close()
        kinds = [step.kind for step in all_steps(spec)]
        each = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
        figures: dict[str, Any] = {"steps": len(kinds), "kinds": each}
        fused = any(isinstance(step, RetrieveStep) and step.weight is None for step in all_steps(spec))
        if fused and opened.env.index is not None:
            from bucle.customise.retrieve.fusion import fusion_of

            fitted = fusion_of(opened.env.index, [*ctx.train, *ctx.validation], seed=ctx.seed, report=ctx.report)
            (ctx.out / WEIGHTS).write_text(json.dumps(dict(fitted.weights)))
            figures |= {"weights": dict(fitted.weights), "chosen": fitted.chosen, "rows": fitted.rows}
        return figures

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        """The chain, ready. `ctx.extra` may hold `tasks` (name -> Predictor) and `cache` (a StepCache). Raises
        ConfigError where something it needs is missing, or its code is not trusted."""
        from bucle.customise.chain.load import read_chain

        spec = read_chain(json.loads((folder / "chain.json").read_text("utf-8")))
        return ChainPredictor(self._load(spec, folder, ctx), ctx)

    def _load(self, spec: ChainSpec, folder: Path, ctx: LoadContext) -> Chain:
        from bucle.customise.chain.result import ChainEnv
        from bucle.customise.chain.run import Chain
        from bucle.customise.chain.spec import RetrieveStep, all_steps

        index = None
        if any(isinstance(step, RetrieveStep) for step in all_steps(spec)) and ctx.index is not None:
            from bucle.customise.retrieve.quote import open_index

            index = open_index(ctx)
        kept = folder / WEIGHTS
        weights = json.loads(kept.read_text()) if kept.is_file() else {}
        tasks = dict(ctx.extra.get("tasks") or {})
        if ctx.extra.get("fitting"):  # other tasks' candidates are opened to answer, not to fit
            tasks = {name: _NoTask() for step in all_steps(spec) if (name := getattr(step, "task", ""))}
        own = folder / "own"
        sources = {path.relative_to(own).as_posix(): path.read_bytes() for path in sorted(own.rglob("*.py"))}
        language = spec.language or str(ctx.params.get("language") or "es")
        return Chain(spec, ChainEnv(
            models=ctx.models, index=index, weights=weights, reranker=ctx.reranker, tasks=tasks, project=ctx.project,
            trusted=ctx.trusted, sources=sources, cache=ctx.extra.get("cache"), language=language, seed=ctx.seed,
            index_version=ctx.index.name if ctx.index is not None else "", labels=ctx.extra.get("labels")))


class ChainPredictor:
    """Answers with a chain. In a classify task an answer that is no label is that row's error.

    Its work is mostly waiting for others: whoever serves it sends up to `max_parallel` inputs through it side by side,
    one a call. The models of its steps keep limits of their own.
    """

    max_parallel = 16

    def __init__(self, chain: Chain, ctx: LoadContext) -> None:
        self.chain, self.kind, self.labels = chain, ctx.kind, tuple(ctx.labels)

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        """As Chain.predict. Raises ModelUnavailable where, of several inputs, more than one and more than a twentieth
        got no answer from outside: figures would be of the outage. Nothing is raised while somebody waits for the
        answers."""
        from bucle.models.ask import somebody_waits

        found = self.chain.predict(inputs, access=access)
        if somebody_waits():
            return [self._label(one) for one in found] if self.kind == "classify" else found
        lost = [one for one in found if one.error_kind in UPSTREAM]
        if len(inputs) > 1 and len(lost) > max(1, OWN_FAULT * len(inputs)):
            raise ModelUnavailable(f"{len(lost)} of {len(inputs)} inputs got no answer from outside: {lost[-1].error}",
                                   f"bucle chain run {self.chain.spec.name} \"…\" --trace")
        return [self._label(one) for one in found] if self.kind == "classify" else found

    def close(self) -> None:
        """Lets go of connections and of the file of its cache; whoever asks again opens them again."""
        self.chain.close()
        env = self.chain.env
        for one in (env.cache, *env.tasks.values()):
            if (close := getattr(one, "close", None)) is not None:
                close()

    def _label(self, found: Prediction) -> Prediction:
        if found.error or not self.labels or found.output in self.labels:
            return found
        from bucle.customise.prompt.classify import label_in

        label = label_in(found.output, self.labels)
        fault = "" if label else f"the chain's answer is no label: {found.output[:80]!r}"
        return found.model_copy(update={"output": label or "", "error": fault, "abstained": False,
                                        "error_kind": "BadInput" if fault else ""})


class _NoTask:
    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        raise BadInput("no task is open while a chain is fitted", "")


def _spec(params: Mapping[str, Any]) -> ChainSpec:
    from bucle.customise.chain.load import read_chain

    if not isinstance(body := params.get("chain"), Mapping):
        raise ConfigError("The technique `chain` needs a chain.", "Name it under `chains:` in bucle.yaml, and in a "
                          "task's `chains`.")
    return read_chain(body)
