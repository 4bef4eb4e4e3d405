"""An S3 server in a process of its own, and what a program is told to find it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request

import fsspec

BUCKET = "runs"


@contextlib.contextmanager
def server(folder):
    """moto's server on a free port; yields the environment of programs that use it. It has one bucket, `BUCKET`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(folder / "moto.log", "wb") as log:
        program = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
        process = subprocess.Popen(program, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, (folder / "moto.log").read_text()
            time.sleep(0.1)
        found = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "a secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "XDG_CACHE_HOME": str(folder / "cache"),
        }
        make = urllib.request.Request(f"{found['AWS_ENDPOINT_URL']}/{BUCKET}", method="PUT")
        urllib.request.urlopen(make).close()
        yield found
    finally:
        process.kill()
        process.wait()


def files(environment):
    """The server's file system, for this process."""
    return fsspec.filesystem(
        "s3",
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
