"""A real S3 server on loopback, moto's, that counts its requests and may take time for each."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

KEY, SECRET = "loopback-key", "loopback-secret"


class Server:
    """Answers at `address`; `requests` counts methods, `delay` is in seconds a request, `before` may refuse one."""

    def __init__(self, delay: float = 0.0) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        self.delay, self.requests = delay, Counter[str]()
        self.busy = 0.0  # seconds that moto itself took, which is no part of `delay`
        self._one_writer = threading.Lock()
        self.refuse: str = ""  # an S3 error code for every request
        self._app = DomainDispatcherApplication(create_backend_app)
        handler = type("Quiet", (MotoRequestHandler,), {"log_request": lambda *_: None, "protocol_version": "HTTP/1.1"})
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        self.requests[environ["REQUEST_METHOD"]] += 1
        time.sleep(self.delay)
        began = time.perf_counter()
        try:
            return self._answer_now(environ, respond)
        finally:
            self.busy += time.perf_counter() - began

    def _answer_now(self, environ: dict[str, Any], respond: Any) -> Iterable[bytes]:
        if self.refuse:
            respond("403 Forbidden", [("Content-Type", "application/xml")])
            return [f"<Error><Code>{self.refuse}</Code><Message>Refused.</Message></Error>".encode()]
        with self._one_writer if environ["REQUEST_METHOD"] == "PUT" else contextlib.nullcontext():
            return self._app(environ, respond)  # S3 decides a condition and writes in one step; moto's threads do not

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this server, as any client of S3 reads it."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self) -> str:
        """Make a new bucket and return its name."""
        import boto3

        name = f"prism-{uuid.uuid4().hex[:12]}"
        boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        ).create_bucket(Bucket=name)
        return name


@contextlib.contextmanager
def serving(delay: float = 0.0) -> Iterator[Server]:
    """A server while the block runs."""
    server = Server(delay)
    try:
        yield server
    finally:
        server._server.shutdown()
