"""A Bucle model as one that lm-evaluation-harness (the optional extra `bucle[lm-eval]`) can ask.

A local model answers every kind of request, with the numbers of the harness's own `hf` model; what only gives text (a
remote model, a release's candidate) answers those that generate. The harness is imported inside.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, BucleError, ConfigError, Infrastructure
from bucle.core.ports import ChatModel, Message, Predictor
from bucle.evaluate.interop.imported import Imported

if TYPE_CHECKING:
    from bucle.models.local import LocalModel

__all__ = ["chat_lm", "local_lm", "predictor_lm", "run"]

GENERATES = "generate_until"
TOKENS_AT_ONCE = 8192
MAX_TOKENS = 256
"""New tokens where the task does not say: the harness's own default."""
_STOPS = 4
"""An OpenAI-compatible API takes no more stop texts; the reply is cut at all of them here."""


def local_lm(model: LocalModel) -> Any:
    """An `LM` over a local model: log-likelihoods, rolling ones, and text generated from the bare prompt. Raises
    ConfigError without the harness."""
    _installed()
    import torch
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
    from lm_eval.models.utils_hf import stop_sequences_criteria

    tokens = model.tokenizer

    class Local(TemplateLM):
        tokenizer = tokens
        bucle_name = model.name
        only = ""

        @property
        def eot_token_id(self) -> int:
            return int(tokens.eos_token_id)

        @property
        def prefix_token_id(self) -> int:
            return int(tokens.eos_token_id if tokens.bos_token_id is None else tokens.bos_token_id)

        @property
        def tokenizer_name(self) -> str:
            return str(model.name)

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            if add_special_tokens is None and string.startswith(tokens.decode(self.prefix_token_id)):
                add_special_tokens = False  # the text brings its own
            extra = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
            return list(tokens.encode(string, **extra))

        def apply_chat_template(self, chat_history: Sequence[Message], add_generation_prompt: bool = True) -> str:
            return str(
                tokens.apply_chat_template(
                    list(chat_history),
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )

        def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
            asked = [((begin + end)[-(model.context + 1) :], len(end)) for _, begin, end in requests]
            found: list[tuple[float, bool]] = [(0.0, True)] * len(asked)
            for batch in _batches([len(ids) for ids, _ in asked]):
                longest = max(len(asked[i][0]) for i in batch)
                rows = torch.zeros((len(batch), longest), dtype=torch.long)
                for place, i in enumerate(batch):
                    rows[place, : len(asked[i][0])] = torch.tensor(asked[i][0])
                with torch.inference_mode():  # padding stands on the right, where no real token can see it
                    logits = model.model(input_ids=rows[:, :-1], use_cache=False).logits
                for place, i in enumerate(batch):
                    ids, size = asked[i]
                    size = min(size, len(ids) - 1)
                    head = torch.log_softmax(logits[place, len(ids) - 1 - size : len(ids) - 1].float(), -1)
                    wanted = rows[place, len(ids) - size : len(ids)]
                    total = float(head.gather(1, wanted[:, None]).sum())
                    found[i] = (total, bool((head.argmax(-1) == wanted).all()))
            return found

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            windows = [
                [
                    (None, *utils.make_disjoint_window(window))
                    for window in utils.get_rolling_token_windows(
                        token_list=self.tok_encode(request.args[0]),
                        prefix_token=self.prefix_token_id,
                        max_seq_len=model.context,
                        context_len=1,
                    )
                ]
                for request in requests
            ]
            flat = iter(self._loglikelihood_tokens([window for one in windows for window in one]))
            return [sum(next(flat)[0] for _ in one) for one in windows]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            end = tokens.decode([self.eot_token_id])
            said = []
            for request in requests:
                context, given = request.args
                options = dict(normalize_gen_kwargs(given, MAX_TOKENS))
                until, many = [*options.pop("until"), end], int(options.pop("max_gen_toks"))
                if options.get("temperature") == 0.0 and not options.get("do_sample"):
                    options = {**options, "do_sample": False}
                    del options["temperature"]
                if many >= model.context:
                    raise BadInput(
                        f"The task generates {many} tokens and {model.name} holds {model.context}.",
                        "choose a model with a longer context, or lower the task's max_gen_toks",
                    )
                ids = self.tok_encode(context)[-(model.context - many) :]
                prompt = torch.tensor([ids])
                with torch.inference_mode():
                    out = model.model.generate(
                        input_ids=prompt,
                        attention_mask=torch.ones_like(prompt),
                        max_length=len(ids) + many,
                        stopping_criteria=stop_sequences_criteria(tokens, until, len(ids), 1),
                        pad_token_id=tokens.eos_token_id if tokens.pad_token_id is None else tokens.pad_token_id,
                        use_cache=True,
                        **options,
                    )
                text = tokens.decode(out[0, len(ids) :].tolist(), skip_special_tokens=True)
                said.append(postprocess_generated_text(text, until, None))
            return said

    return Local()


def chat_lm(model: ChatModel) -> Any:
    """An `LM` over anything that chats: each prompt is a user's message. Raises ConfigError without the harness."""

    def answer(prompts: Sequence[tuple[list[Message], Mapping[str, Any]]]) -> list[str]:
        from bucle.models.ask import Ask, ask_all

        asks = [
            Ask(
                messages,
                max_tokens=int(options["max_gen_toks"]),
                temperature=float(options.get("temperature") or 0.0),
                stop=tuple(options["until"][:_STOPS]),
            )
            for messages, options in prompts
        ]
        said = []
        for reply in ask_all(model, asks):
            if isinstance(reply, BucleError):  # an answer that never came is no wrong answer
                raise reply
            said.append(reply.text)
        return said

    return _texts(model.name, answer)


def predictor_lm(predictor: Predictor, name: str) -> Any:
    """An `LM` over a release's candidate: each prompt is one of its inputs. Raises ConfigError without the harness."""

    def answer(prompts: Sequence[tuple[list[Message], Mapping[str, Any]]]) -> list[str]:
        said = predictor.predict([messages[-1]["content"] for messages, _ in prompts])
        for one in said:
            if one.error:
                raise Infrastructure(f"{name} did not answer: {one.error}", "Run it again; nothing was stored.")
        return [one.output for one in said]

    return _texts(name, answer)


def _texts(name: str, answer: Callable[[Sequence[tuple[list[Message], Mapping[str, Any]]]], list[str]]) -> Any:
    _installed()
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

    class Texts(LM):
        bucle_name = name
        only = GENERATES
        tokenizer_name = name

        def chat_template(self, chat_template: bool | str = False) -> str:
            return ""

        def apply_chat_template(self, chat_history: Sequence[Message], add_generation_prompt: bool = True) -> str:
            return _Chat.mark + json.dumps(list(chat_history), ensure_ascii=False)

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            raise _no_probabilities(name, "a task")

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise _no_probabilities(name, "a task")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            prompts = []
            for request in requests:
                context, given = request.args
                prompts.append((_Chat.messages(context), dict(normalize_gen_kwargs(given, MAX_TOKENS))))
            said = answer(prompts)
            return [
                postprocess_generated_text(text, options["until"], None)
                for text, (_, options) in zip(said, prompts, strict=True)
            ]

    return Texts()


class _Chat:
    """A conversation on its way through the harness, which knows prompts as texts only."""

    mark = "\x00chat"

    @classmethod
    def messages(cls, context: str) -> list[Message]:
        if context.startswith(cls.mark):
            found: list[Message] = json.loads(context.removeprefix(cls.mark))
            return found
        return [{"role": "user", "content": context}]


def run(
    lm: Any,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    shots: int | None = None,
    include: Path | None = None,
    out: Path | None = None,
    chat: bool = False,
) -> list[Imported]:
    """The harness's evaluation of `lm` on `tasks`, as it would be imported; its result files go to `out` too. The
    seeds are the harness's own, so that its numbers are. Raises BadInput for a task that is not known, needs what `lm`
    cannot give, or whose data cannot be had."""
    _installed()
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from bucle.evaluate.interop.lm_results import of_results

    if include is not None and not include.is_dir():
        raise BadInput(f"{include} is no folder of task files.", "--include-path names the folder, not the file.")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(sys.stderr):  # standard output is the verb's own
        manager = TaskManager(include_path=str(include) if include else None)
        _known(manager, tasks)
        try:
            loaded = manager.load(list(tasks))["tasks"]
        except BucleError:
            raise
        except Exception as error:  # whatever a task file or a download raises
            raise BadInput(
                f"The data of {', '.join(tasks)} cannot be had: {type(error).__name__}: {_line(error)}.",
                "Check the network and the task file.",
            ) from error
        for name, task in loaded.items():
            if lm.only and lm.only != task.OUTPUT_TYPE:
                raise _no_probabilities(lm.bucle_name, f"`{name}` ({task.OUTPUT_TYPE})")
        found = simple_evaluate(
            model=lm,
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            task_manager=manager,
            apply_chat_template=chat,
            bootstrap_iters=1000,
            log_samples=True,
        )
        if found is None:
            raise Infrastructure("The harness returned nothing.", "Run it again.")
        samples = found.pop("samples")
        found["model_name"] = lm.bucle_name
        if out is not None:
            _save(found, samples, out, lm.bucle_name)
    return of_results(found, samples)


def _save(found: dict[str, Any], samples: dict[str, Any], out: Path, name: str) -> None:
    """The files that `lm_eval --output_path --log_samples` writes, by the harness itself."""
    import copy

    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(out))
    tracker.general_config_tracker.log_experiment_args("bucle", f"pretrained={name}", "", "", False)
    kept = copy.deepcopy(samples)
    tracker.save_results_aggregated(results=dict(found), samples=kept)
    for task, rows in kept.items():
        tracker.save_results_samples(task_name=task, samples=rows)


def _known(manager: Any, tasks: Sequence[str]) -> None:
    import difflib

    every = list(manager.all_tasks)
    for name in tasks:
        if not manager.match_tasks([name]):
            near = difflib.get_close_matches(name, every, 1)
            raise BadInput(
                f"lm-evaluation-harness has no task `{name[:80]}`.",
                f"Did you mean `{near[0]}`?" if near else "--include-path adds a folder of your own.",
            )


def _no_probabilities(model: str, task: str) -> BadInput:
    return BadInput(
        f"{model} gives text and no log-probabilities, which {task} asks for.",
        "Ask a local model (--model), or take a task that generates (output_type: generate_until, such as gsm8k).",
    )


def _installed() -> None:
    import importlib.util

    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError("lm-evaluation-harness is not installed.", "pip install 'bucle[lm-eval]'")


def _batches(sizes: Sequence[int]) -> list[list[int]]:
    """Places of requests, longest first, a batch within TOKENS_AT_ONCE."""
    made: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if made and (len(made[-1]) + 1) * sizes[made[-1][0]] <= TOKENS_AT_ONCE:
            made[-1].append(i)
        else:
            made.append([i])
    return made


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200]
