"""`relay openapi`: print the description of the API, as `/openapi.json` answers it."""

import click


@click.command("openapi")
@click.option("--server", metavar="URL", default="/", show_default=True, help="Where relay is reached.")
def command(server: str) -> None:
    """Print the OpenAPI document of the API, to generate clients from."""
    from relay.providers import PROVIDERS
    from relay.web import openapi
    from relay.web.routes import API

    click.echo(openapi.encoded(openapi.document(API, PROVIDERS, server)))
