"""`bucle keys`: who may ask the server, for what, and how much. Its verbs are in files `keys_…` beside."""

from __future__ import annotations

import click

from bucle.cli.lazy import ListedVerbs

VERBS = {
    "list": ("look", "Every key with its team, scopes, labels, end and spend; never the secret."),
    "show": ("look", "One key, its limits, and who did what to it when."),
    "create": ("make", "A new key; its secret is shown this once."),
    "rotate": ("make", "A new secret for a key; the old one is valid for a while."),
    "change": ("make", "Another team, scope, label, end or limit; a running server takes it within a second."),
    "revoke": ("make", "Let nobody in by a key any more."),
}


@click.group("keys", cls=ListedVerbs, verbs=VERBS)
def command() -> None:
    """Keys of the API: what each may do, see and spend. Only a hash of a secret is kept, in this project's ledger.

    A server asks for a key once there is one (or BUCLE_API_KEYS is set). Each verb has --help and --json; without one
    it is `list`.
    """
