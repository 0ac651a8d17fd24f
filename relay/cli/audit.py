"""`relay audit`: who changed what."""

from relay.cli.nouns import MADE, Filter, Noun, list_command

command = list_command(
    Noun(
        path="audit",
        help="",
        columns={
            "at": "at",
            "key": "key_name",
            "via": "via",
            "verb": "verb",
            "target": "target",
            "status": "status",
            "detail": "detail",
        },
        filters=(
            Filter("key", "By this key."),
            Filter("verb", "Such as endpoints.create."),
            Filter("target", "With this id."),
            Filter("via", "api, dashboard, cli or database."),
            Filter("project", "Of this project; for an operator's key."),
            *MADE,
        ),
    ),
    "audit",
)
command.help = "List who changed what, newest first."
