"""`bucle evaluate`: a release on fresh rows, and other tools' evaluations. Each verb is a file `evaluate_NAME.py`."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "file": ("file", "Measure a release on a file of fresh rows; `bucle evaluate FILE` is the same."),
    "stage": ("stage", "Retrieval by itself: recall, citations, abstaining, and where each failed question was lost."),
    "confirm": ("confirm", "Every candidate on rows held back from all of it: does the choice stand?"),
    "judge": ("judge", "How far a judge model agrees with people: kappa, before it may gate."),
    "pairwise": ("pairwise", "Which of two candidates' answers a judge prefers, asked in both orders."),
    "redteam": ("redteam", "Attack what a release serves; ask it harmless things that sound alarming."),
    "bias": ("bias", "Whether answers change with a name, a gender or a nationality."),
    "canary": ("canary", "Whether a provider changed its model under the same name."),
    "lm-eval": ("lm_eval", "Run lm-evaluation-harness tasks against a model or a release."),
    "import": ("import", "Store the results of lm-evaluation-harness or an Inspect log, with intervals."),
    "imported": ("import", "The evaluations stored so, newest first."),
    "compare": ("import", "Two imported evaluations on the samples they share, paired."),
}


class EvaluateVerbs(click.Group):
    """Loads a verb's module only when that verb is used; what is no verb is a file to measure a release on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"bucle.cli.evaluate_{VERBS[cmd_name][0]}")
        made: click.Command = module.commands[cmd_name]
        return made

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "DATA [OPTIONS] | VERB …")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        file = self.get_command(ctx, "file")
        if file is not None:
            options = [one for one in file.params if isinstance(one, click.Option)]
            shown = [record for one in options if (record := one.get_help_record(ctx)) is not None]
            with formatter.section("Options with DATA"):
                formatter.write_dl(shown)
        with formatter.section("Verbs"):
            formatter.write_dl([(name, told) for name, (_, told) in VERBS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(one == "--stage" or one.startswith("--stage=") for one in args) and args[0] != "stage":
            args = ["stage", *args]
        elif not args or (args[0] not in VERBS and args[0] not in ("-h", "--help")):
            args = ["file", *args]
        return super().parse_args(ctx, args)


@click.group("evaluate", cls=EvaluateVerbs)
def command() -> None:
    """Measure a release's candidate on the rows of DATA, beside a TF-IDF logistic regression on the same training
    rows, and check its gates; or one of the verbs below. A file that is called like a verb is `./NAME`."""
