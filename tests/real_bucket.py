"""A real S3-compatible server on this machine: moto's, which asks for credentials."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import boto3
from real_cluster import free_port

BUCKET = "studies"
_FREE_ACTIONS = 6  # until then nobody is asked who they are: the users below are made


@dataclass(frozen=True, slots=True, kw_only=True)
class RealBucket:
    """A bucket.

    Attributes:
        endpoint: host:port of its server.
        credentials: environment of who may read and write it.
        unlisted: of who may do so, and not ask what there is.
        environment: of anybody else.
    """

    endpoint: str
    credentials: dict[str, str]
    unlisted: dict[str, str]
    environment: dict[str, str]

    def address(self, *parts: str, bucket: str = BUCKET) -> str:
        """A place in it, for `--storage`."""
        place = "/".join([bucket, *parts])
        return f"s3://{place}?endpoint_override={self.endpoint}&scheme=http"

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects that there are."""
        pages = self._client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
        return [item["Key"] for page in found for item in page.get("Contents", [])]

    def read(self, name: str) -> bytes:
        """An object."""
        content: bytes = self._client().get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Make an object."""
        self._client().put_object(Bucket=BUCKET, Key=name, Body=content)

    def _client(self):
        return client(self.endpoint, "s3", self.credentials)


def client(endpoint: str, service: str, credentials: dict[str, str]):
    """Of boto3, which moto brings."""
    return boto3.Session(
        credentials["AWS_ACCESS_KEY_ID"], credentials["AWS_SECRET_ACCESS_KEY"]
    ).client(service, endpoint_url=f"http://{endpoint}", region_name="us-east-1")


@contextmanager
def real_bucket(log: Path) -> Iterator[RealBucket]:
    """Start the server with an empty bucket; it ends with the block."""
    endpoint = f"127.0.0.1:{free_port()}"
    host, port = endpoint.split(":")
    own = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    own |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", host, "-p", port],
            env=own | {"INITIAL_NO_AUTH_ACTION_COUNT": str(_FREE_ACTIONS)},
            stdout=out,
            stderr=out,
        )
    try:
        _wait_for(endpoint)
        credentials = _user(endpoint, "driver", "s3:*")
        unlisted = _user(endpoint, "unlisted", "s3:*Object")
        client(endpoint, "s3", credentials).create_bucket(Bucket=BUCKET)
        yield RealBucket(
            endpoint=endpoint, credentials=credentials, unlisted=unlisted, environment=own
        )
    finally:
        server.terminate()
        server.wait(20)


def _wait_for(endpoint: str) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://{endpoint}/moto-api/", timeout=5).close()
            return
        time.sleep(0.2)
    raise TimeoutError(f"Nothing answers at {endpoint}.")


def _user(endpoint: str, name: str, action: str) -> dict[str, str]:
    anybody = {"AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything"}
    iam = client(endpoint, "iam", anybody)
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    may = {"Effect": "Allow", "Action": action, "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=policy)
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
