"""Lists S3 by obstore, whose start and listing cost a tenth of s3fs's, where both find the same in the environment.

Everything else that PRISM asks of storage is s3fs's, and so is the listing where obstore is missing, refused or of
another mind.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

PROTOCOLS = ("s3", "s3a")
PATIENCE = timedelta(seconds=10)  # then s3fs tries, and says what is wrong


def applies(protocol: str) -> bool:
    """Whether keys and address are in environment variables alone: files of settings are botocore's and fsspec's to read."""
    from fsspec.config import conf

    settings = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    known = "AWS_ACCESS_KEY_ID" in os.environ and not settings.is_file() and not any(map(conf.get, PROTOCOLS))
    return protocol in PROTOCOLS and known and importlib.util.find_spec("obstore") is not None


def pages(root: str, folder: str, size: int) -> Iterator[list[dict[str, Any]]]:
    """The objects below BUCKET/PREFIX and a folder of it, `size` at a time: `path` below the prefix, `size`, `last_modified`.

    Raises obstore's errors, of a dozen types.
    """
    import obstore
    from obstore.store import S3Store

    bucket, _, prefix = root.partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    store = S3Store(
        bucket,
        prefix=prefix or None,
        client_options={"allow_http": True, "connect_timeout": PATIENCE},
        retry_config={"max_retries": 2, "retry_timeout": PATIENCE},
        **({"endpoint": endpoint} if endpoint else {}),
    )
    yield from obstore.list(store, folder or None, chunk_size=size)
