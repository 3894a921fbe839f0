"""The technique `external`: an object of another library in the project's own Python, measured and served as any other.

    chains:
      ours: {library: langchain, object: "my_chains:answer_chain", timeout_s: 30}
    tasks:
      preguntas: {kind: answer, data: qa.tsv, chains: [ours]}
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bucle.core.config import External
from bucle.core.errors import BadInput, ConfigError
from bucle.core.ids import sha256_hex
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Prediction
from bucle.customise.external import langchain, llamaindex, python
from bucle.customise.external.rows import PARALLEL, Steps, answer_each, failed, masked
from bucle.customise.own import own_file, own_object, secret_values

__all__ = ["ExternalPredictor", "ExternalTechnique", "external_params"]

KEPT = 16  # objects that a factory made, one for each set of labels
MAX_QUESTION = 1_000_000
LIBRARIES: Mapping[str, Any] = {"langchain": langchain, "llamaindex": llamaindex, "python": python}
MODULES = {"langchain": "langchain_core", "llamaindex": "llama_index.core"}
EXTRAS = {"langchain": "langchain", "llamaindex": "llama-index"}
METHODS = {"langchain": ("invoke",), "llamaindex": ("query", "aquery"), "python": ("predict",)}
GIVEN = ("access", "folder")


def external_params(settings: External, folder: Path) -> dict[str, Any]:
    """What a candidate of `settings` is made from: they, and the hash of the file that holds the object, so that an
    edit makes another candidate. Raises ConfigError."""
    source = own_file(settings.object, folder, "chain").read_bytes()
    return {"external": settings.model_dump(mode="json"), "source": sha256_hex(source)}


class ExternalTechnique:
    """A LangChain Runnable, a LlamaIndex query engine or a Python function, as it is. Nothing is fitted: the object's
    file is kept with the candidate, and runs from there, only with trust."""

    name = "external"
    kinds = frozenset({"classify", "answer", "summarise", "translate", "extract", "generate", "instruct", "converse",
                       "code", "retrieve"})
    needs: frozenset[str] = frozenset()
    rung = 4
    baseline = False
    when = "What a team already has in LangChain, LlamaIndex or Python, beside the rest."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Opens the object, so that a mistake shows before any row is asked."""
        settings = _settings(ctx.params)
        folder = _folder(ctx.project)
        source = own_file(settings.object, folder, "chain").read_bytes()
        kept = {"external": settings.model_dump(mode="json"), "source": source.decode("utf-8", "surrogateescape")}
        (ctx.out / "external.json").write_text(json.dumps(kept), "utf-8")
        made = self.load(ctx.out, LoadContext(labels=ctx.labels, params=ctx.params, kind=ctx.kind, project=ctx.project,
                                              trusted=ctx.trusted))
        return {"library": settings.library, "object": settings.object, "takes_access": made.takes_access}

    def load(self, folder: Path, ctx: LoadContext) -> ExternalPredictor:
        kept = json.loads((folder / "external.json").read_text("utf-8"))
        settings, project = External.model_validate(kept["external"]), _folder(ctx.project)
        source = str(kept["source"]).encode("utf-8", "surrogateescape")
        thing = _loaded(settings, project, ctx.trusted, source)
        return ExternalPredictor(settings, thing, ctx, project.resolve())


class ExternalPredictor:
    """Asks the object, some questions at once, each with its own time, error and spans.

    `access` are the labels that the asker holds. An object that takes them (`takes_access`) is given them with every
    question, and answers for what it does with them. One that does not cannot keep anything from anybody: where the
    project has documents with labels it answers nobody (where that is not known, nobody who holds a label).

    Whoever serves it asks it up to `max_parallel` questions side by side, one a call, each of them once.
    """

    max_parallel = PARALLEL

    def __init__(self, settings: External, thing: Any, ctx: LoadContext, folder: Path) -> None:
        self.settings, self.kind, self.folder = settings, ctx.kind, folder
        self._library, self._thing = LIBRARIES[settings.library], thing
        self._makes = _is_factory(settings, thing)
        self._made: OrderedDict[frozenset[str], Any] = OrderedDict()
        self._lock = threading.Lock()
        self._secrets = secret_values(folder)
        self._labels = ctx.extra.get("labels")  # path -> labels today; None where nobody has said
        made = self._object(frozenset())  # now, so that a mistake shows before a question is asked
        by_factory = self._makes and python.accepts(thing, "access")
        self.takes_access = bool(by_factory or self._library.takes_access(made))
        self._library.calling(made, self.kind, frozenset(), folder)

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        """One Prediction an input, in order; nothing is raised for an input that fails."""
        if not self.takes_access and (bool(access) if self._labels is None else any(self._labels.values())):
            return [_refused(self.settings) for _ in inputs]
        try:
            call = self._library.calling(self._object(access), self.kind, access, self.folder)
        except Exception as error:  # a factory's own mistake with these labels
            told = failed(error, self._secrets)
            said = masked(f"{told.message} {told.hint}".strip(), self._secrets, 600)
            return [Prediction(output="", error=said, error_kind=type(told).__name__) for _ in inputs]
        return answer_each(inputs, _bounded(call), timeout_s=self.settings.timeout_s,
                           secrets=self._secrets)

    def _object(self, access: frozenset[str]) -> Any:
        """The object for holders of `access`: the one there is, or what the factory makes, remembered."""
        if not self._makes:
            return self._thing
        key = access if python.accepts(self._thing, "access") else frozenset()
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
            given = {"access": key, "folder": self.folder}
            made = self._thing(**{n: given[n] for n in GIVEN if python.accepts(self._thing, n)})
            if not _is_object(self.settings, made):
                raise _not_one(self.settings, made)
            self._made[key] = made
            if len(self._made) > KEPT:
                self._made.popitem(last=False)
            return made


def _loaded(settings: External, folder: Path, trusted: bool, source: bytes) -> Any:
    module = MODULES.get(settings.library, "")
    if module and trusted and not _installed(module):
        raise ConfigError(f"The chain {settings.object} needs {module}, which is not installed.",
                          f"pip install 'bucle[{EXTRAS[settings.library]}]'")
    thing = own_object(settings.object, folder, trusted, what="chain", source=source)
    if not _is_object(settings, thing) and not _is_factory(settings, thing):
        raise _not_one(settings, thing)
    return thing


def _is_object(settings: External, thing: Any) -> bool:
    if isinstance(thing, type):
        return False
    if any(callable(getattr(thing, name, None)) for name in METHODS[settings.library]):
        return True
    return settings.library == "python" and callable(thing) and bool(python.required(thing))


def _is_factory(settings: External, thing: Any) -> bool:
    return callable(thing) and not _is_object(settings, thing) and set(python.required(thing)) <= set(GIVEN)


def _not_one(settings: External, thing: Any) -> ConfigError:
    what = {"langchain": "a Runnable", "llamaindex": "a query engine", "python": "a function of the question"}
    return ConfigError(
        f"{settings.object} is a {type(thing).__name__}; {settings.library} wants {what[settings.library]}.",
        "Name the object itself, or a function without arguments (or of `access` and `folder`) that makes it.")


def _refused(settings: External) -> Prediction:
    return Prediction(
        output="", error_kind=BadInput.__name__,
        error=f"{settings.object} does not take the asker's access labels, and some documents have labels: it answers "
              "nobody. Let its factory, its input or its method take `access` (docs/interop.md).")


def _bounded(call: Callable[[str, Steps], Prediction]) -> Callable[[str, Steps], Prediction]:
    def bounded(question: str, steps: Steps) -> Prediction:
        if len(question) > MAX_QUESTION:
            raise BadInput(f"A question of {len(question):,} characters is not asked.", "Shorten it.")
        return call(question, steps)

    return bounded


def _settings(params: Mapping[str, Any]) -> External:
    try:
        return External.model_validate(params.get("external") or {})
    except ValidationError as error:
        raise ConfigError(f"The chain says no object: {error.errors()[0]['msg']}.",
                          "Write `library:` and `object: module:name` under `chains:`.") from error


def _folder(project: Path | None) -> Path:
    if project is None:
        raise ConfigError("An object of the project's own needs its folder.", "Run it as a chain of a project.")
    return project


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
