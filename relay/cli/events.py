"""`relay events`: list and show events."""

from relay.cli.nouns import MADE, Filter, Noun, group_of

command = group_of(
    Noun(
        path="events",
        help="List and show events.",
        columns={
            "id": "id",
            "type": "type",
            "job": "job",
            "number": "sequence",
            "at": "timestamp",
            "delivered": "deliveries.delivered",
            "pending": "deliveries.pending",
            "exhausted": "deliveries.exhausted",
        },
        filters=(
            Filter("type", "Of this type."),
            Filter("job", "About this job."),
            Filter("after", "Behind this event in the order of commits."),
            Filter("undelivered", "An endpoint has not received it.", flag=True),
            *MADE,
        ),
    )
)
