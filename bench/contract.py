"""Has schemathesis send what `/openapi.json` allows, and what it forbids, to a relay with real objects.

It has dependencies that relay does not have, so it is installed into a folder of its own, `build/schemathesis`.
"""

import asyncio
import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

import click
import httpx

from bench.load import KEY
from bench.processes import ROOT, relay_with_sandbox

VERSION: Final = "4.32.5"
FOLDER: Final = ROOT / "build" / "schemathesis"
SKIPPED: Final = ("/v1/events/stream", "/callbacks/{provider}/{token}")
"""A stream has no end; the body of a callback is a provider's, and `fuzz` has it."""


LEFT_OUT: Final = ("negative_data_rejection", "positive_data_acceptance")
"""Checks that ask for what HTTP does not want, a refusal of unknown headers, and for what a schema cannot say.

The second kind are texts that are no time, no provider's name, hold U+0000, or belong together; tests of the suite have
them one by one.
"""


@click.command("contract")
@click.option("--examples", default=50, show_default=True, help="Requests of each route, at least.")
@click.option("--seed", default=1, show_default=True)
def command(examples: int, seed: int) -> None:
    """Hold a running relay to its description, by schemathesis; exit 1 if an answer differs from it."""
    sys.exit(asyncio.run(_run(examples, seed)))


async def _run(examples: int, seed: int) -> int:
    """Return the exit status of schemathesis."""
    program = _installed()
    async with relay_with_sandbox(0.05) as (client, _):
        named = await _objects(client)
        settings = FOLDER / "schemathesis.toml"
        settings.write_text(_settings(named))
        words = [str(program), "--config-file", str(settings), "run", str(client.base_url.join("/openapi.json"))]
        words += ["--max-examples", str(examples), "--seed", str(seed), "--exclude-checks", ",".join(LEFT_OUT)]
        words += ["--generation-database", "none", "--request-timeout", "40"]
        for path in SKIPPED:
            words += ["--exclude-path", path]
        child = await asyncio.create_subprocess_exec(*words, cwd=FOLDER)
        status = await child.wait()
        alive = (await client.get("/readyz")).status_code
    print(json.dumps({"bench": "contract", "seed": seed, "examples": examples, "status": status, "ready": alive}))
    return status


def _installed() -> Path:
    """Return the program, installed if it is not there."""
    program = FOLDER / "bin" / "schemathesis"
    if not program.exists():
        venv.create(FOLDER, with_pip=True)
        install = [FOLDER / "bin" / "python", "-m", "pip", "install", "--quiet", f"schemathesis=={VERSION}"]
        subprocess.run(install, check=True)
    return program


async def _objects(client: httpx.AsyncClient) -> dict[str, dict[str, str]]:
    """Return the parameters of real objects' paths, by the beginning of these paths."""
    images = ["https://example.com/a.png"]
    body = {"provider": "evolink", "input": {"images": images, "prompt": "a pan", "duration_s": 5}}
    await client.post("/v1/endpoints", json={"url": "https://app.example/hook"})
    await client.post("/v1/jobs", json=body)
    await client.post("/v1/keys", json={"name": "of the benchmark"})
    found = {}
    for kind in ("jobs", "endpoints", "events", "deliveries", "callbacks", "keys"):
        async with asyncio.timeout(10):
            while not (shown := (await client.get(f"/v1/{kind}")).json()["data"]):  # noqa: ASYNC110 - it is behind HTTP
                await asyncio.sleep(0.1)
        found[f"^/v1/{kind}/"] = {"path.id": shown[0]["id"]}
    endpoint = found["^/v1/endpoints/"]
    sent = await client.post(f"/v1/endpoints/{endpoint['path.id']}/redeliveries", json={"since": "-1h", "which": "all"})
    found["^/v1/endpoints/"] = endpoint | {"path.redelivery": sent.json()["id"]}
    return found


def _settings(named: dict[str, dict[str, str]]) -> str:
    """Return the settings of schemathesis: the key, and the ids of the paths."""
    parts = [f'[auth.openapi.key]\nbearer = "{KEY}"\n']
    for paths, parameters in named.items():
        given = ", ".join(f'"{name}" = "{value}"' for name, value in parameters.items())
        parts.append(f'[[operations]]\ninclude-path-regex = "{paths}"\nparameters = {{ {given} }}\n')
    return "\n".join(parts)
