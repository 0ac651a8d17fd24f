"""A real S3 server in a thread of the tests, and Amazon's own SDK as its client."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import botocore.config

KEY_ID, SECRET, REGION = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
BUCKET = "relay-results"


class S3:
    """A running server with one bucket; `client` is boto3's."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = client(endpoint)
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which obstore finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def keys(self) -> list[str]:
        """Return the keys of the bucket."""
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def body(self, key: str) -> bytes:
        """Return an object as the SDK reads it."""
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def content_type(self, key: str) -> str:
        """Return the type of an object."""
        return str(self.client.head_object(Bucket=BUCKET, Key=key)["ContentType"])

    def uploads(self) -> list[Any]:
        """Return the uploads in parts that nobody has ended."""
        found: list[Any] = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return found

    def empty(self) -> None:
        """Delete every object."""
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)


def client(endpoint: str) -> Any:
    """Return boto3's client of a server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name=REGION,
        config=botocore.config.Config(retries={"max_attempts": 0}),
    )


@contextmanager
def server() -> Iterator[S3]:
    """Run a server while the block runs."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - it takes a second to load

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield S3(f"http://{host}:{port}")
    finally:
        running.stop()
