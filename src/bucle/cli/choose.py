"""`bucle choose`: the comparison, and what is known of models and costs. Each verb is a file `choose_NAME.py`."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "models": ("models", "The catalogue: prices, licences, places, languages; what fits, and why the rest does not."),
    "tokens": ("tokens", "Tokens of a text under a model's tokenizer, prompt and completion apart."),
    "cost": ("cost", "Each candidate a request, a thousand, a month; hosting beside the API, and the break-even."),
}


class ChooseVerbs(click.Group):
    """Loads a verb's module only when that verb is used; without one, the candidates are compared."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        file = "compare" if cmd_name == "compare" else VERBS.get(cmd_name, ("",))[0]
        if not file:
            return None
        made: click.Command = importlib.import_module(f"bucle.cli.choose_{file}").commands[cmd_name]
        return made

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] | VERB …")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        compare = self.get_command(ctx, "compare")
        if compare is not None:
            options = [one for one in compare.params if isinstance(one, click.Option)]
            with formatter.section("Options without a verb"):
                formatter.write_dl([record for one in options if (record := one.get_help_record(ctx)) is not None])
        with formatter.section("Verbs"):
            formatter.write_dl([(name, told) for name, (_, told) in VERBS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not {"-h", "--help"} & set(args[:1]) and (not args or args[0].startswith("-")):
            args = ["compare", *args]
        return super().parse_args(ctx, args)


@click.group("choose", cls=ChooseVerbs)
def command() -> None:
    """Compare the candidates of every task with paired confidence intervals, cost and latency; recommend one. Or look
    at models and costs before anything is asked, with one of the verbs below."""
