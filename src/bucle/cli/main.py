"""`bucle`: each verb is a file beside this one, loaded when it is called, so that help answers at once."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

VERBS = {
    "init": "Start a project, from one labelled file if there is one.",
    "run": "Run the whole loop; what is finished is reused.",
    "data": "Documents and rows: what was read, removed, quarantined.",
    "prompt": "Prompts as files: versions, aliases, what a model reads; improve one.",
    "label": "Label rows: a queue, several people, agreement, Label Studio and Argilla.",
    "explore": "What the data look like: balance, doubtful labels, leakage.",
    "index": "Search the documents' passages; the index and its versions.",
    "choose": "Compare every candidate on the same held-out rows and recommend one.",
    "tune": "Fit one technique; look at the exact batch it trains on.",
    "chain": "Chains of steps: list, show, and run one with its steps on a scale of time.",
    "pretrain": "Pretrain the project's own small model.",
    "evaluate": "Measure a release on a file of fresh rows, with intervals.",
    "release": "Versions, cards, the production alias; roll back.",
    "serve": "Serve what is released and the models, to OpenAI's and Anthropic's clients.",
    "keys": "API keys: scopes, labels, limits, expiry.",
    "spend": "What each key, team and route spent, and how much of its budget.",
    "traces": "What was asked and answered: find, show, follow, export.",
    "monitor": "Alerts and windows.",
    "feedback": "Rate and correct answers; see what they would teach.",
    "why": "Everything behind one answer.",
    "impact": "Everything that one document or example touched.",
    "report": "Where the HTML report is; its figures as JSON.",
    "doctor": "Check this machine and this project.",
    "studio": "The studio in a browser, with the API beside it.",
}


class Verbs(click.Group):
    """Loads a verb's module only when that verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"bucle.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in VERBS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], VERBS, n=1)
            raise click.UsageError(f"There is no verb `{args[0]}`." + (f" Did you mean `{near[0]}`?" if near else ""))
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bucle", prog_name="bucle")
def bucle() -> None:
    """From a team's own documents and examples to a language model in production that keeps getting better.

    Exit codes: 0 done, gate passed; 1 a gate failed; 2 usage or configuration; 3 infrastructure; 130 interrupted.
    """


def main(argv: list[str] | None = None) -> Any:
    """Run the command line. Errors that Bucle explains become two lines and an exit code."""
    from bucle.core.errors import BucleError

    # Threads that wait asleep: spinning ones make torch several times slower as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = bucle.main(args=argv, standalone_mode=False)
        if isinstance(status, int) and status:  # what click makes of Exit here
            sys.exit(status)
    except BucleError as error:
        _fail(error.message, error.hint, error.exit_code, type(error).__name__)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            _fail("Interrupted.", "The same command goes on where it stopped.", 130, "Interrupted")
        _fail("Nothing was done: that was not agreed to.", "", 1, "Declined")  # "n", or nobody there to ask
    except KeyboardInterrupt:
        _fail("Interrupted.", "The same command goes on where it stopped.", 130, "Interrupted")
    except click.ClickException as error:
        hint = (
            error.ctx.command_path + " --help" if isinstance(error, click.UsageError) and error.ctx else "bucle --help"
        )
        _fail(error.format_message(), hint, 2, "Usage")
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)


def _fail(message: str, hint: str, code: int, kind: str) -> None:
    if "--json" in sys.argv:
        import json

        print(json.dumps({"error": {"kind": kind, "message": message, "hint": hint}}, ensure_ascii=False))
    print(f"bucle: {message}" + (f"\n  -> {hint}" if hint else ""), file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
