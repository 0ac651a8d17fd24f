"""`relay alerts`: the conditions that an operator should know of."""

from relay.cli.nouns import Filter, Noun, list_command

command = list_command(
    Noun(
        path="alerts",
        help="",
        columns={"kind": "kind", "state": "state", "since": "since", "ended": "ended_at", "summary": "summary"},
        filters=(Filter("state", "open (if not given), ended or all."), Filter("kind", "Of this kind.")),
    ),
    "alerts",
)
command.help = "List the conditions that an operator should know of."
