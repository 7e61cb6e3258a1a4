"""A model hub on 127.0.0.1 that moves, refuses and fails on request, as far as its clients ask it.

It speaks to the real huggingface_hub, transformers and datasets, started with HF_ENDPOINT set to `address`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

Answer = tuple[int, dict[str, str]]  # status and headers


class Hub(ThreadingHTTPServer):
    """`with Hub() as hub: hub.commit("models/owner/name", {"config.json": b"{}"})` serves until the block ends."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository, commit, file
        self.heads: dict[str, str] = {}
        self.log: list[str] = []  # "GET /api/…"
        self.agents: set[str] = set()
        self.faults: list[Answer] = []  # of the next requests, one each
        self.down: Answer | None = None  # of every request
        self.gated: Answer | None = None  # of every request for a file, as the real hub does
        self.made: dict[str, bool] = {}  # repositories that a client made: whether each is private
        self.uploads: dict[str, bytes] = {}  # large files by their SHA-256, which a commit names
        self.tokens: set[str] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Make `files` the new head of "models/owner/name" or "datasets/owner/name"; returns the commit."""
        content = [repository, *(f"{name} {hashlib.sha1(data).hexdigest()}" for name, data in files.items())]
        sha = hashlib.sha1("\n".join(content).encode()).hexdigest()
        self.commits.setdefault(repository, {})[sha] = files
        self.heads[repository] = sha
        return sha

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that gave up is no error of the server's."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_PUT = do_POST

    def answer(self, body: bytes = b"") -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.log.append(f"{self.command} {path}")
        hub.agents.add(self.headers.get("User-Agent", ""))
        fault = hub.faults.pop(0) if hub.faults else hub.down
        if fault:
            return self.send(fault[0], b"", fault[1])
        if path.startswith("/api/telemetry/"):
            return self.send(200)
        if self.command == "PUT" or path in ("/api/repos/create", "/api/validate-yaml"):
            return self.take(path, body)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.send_json(
                {"transfer": "basic", "objects": [self.upload(one) for one in json.loads(body)["objects"]]}
            )
        if path.startswith("/api/"):
            kind, owner, name, *rest = path.removeprefix("/api/").split("/")
            return self.api(f"{kind}/{owner}/{name}", rest, body)
        parts = path.strip("/").split("/")
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        owner, name, _, revision, *file = parts
        return self.file(f"{kind}/{owner}/{name}", revision, "/".join(file))

    def take(self, path: str, body: bytes) -> None:
        """A new repository, a large file, or a question whether a card's metadata are well-formed."""
        hub = self.server
        if path.startswith("/upload/"):
            hub.uploads[path.removeprefix("/upload/")] = body
            return self.send(200)
        hub.tokens.add(self.headers.get("Authorization", ""))
        asked = json.loads(body)
        if path == "/api/repos/create":
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            hub.made.setdefault(f"models/{name}", asked.get("visibility", "public") == "private")
            return self.send_json({"url": f"{hub.address}/{name}"})
        return self.send_json({"errors": [], "warnings": []})

    def upload(self, wanted: dict) -> dict:
        href = f"{self.server.address}/upload/{wanted['oid']}"
        return {**wanted, "authenticated": True, "actions": {"upload": {"href": href}}}

    def store(self, repository: str, body: bytes) -> None:
        """A commit, as lines of JSON: small files in it, large ones by the SHA-256 of what was uploaded before."""
        files: dict[str, bytes] = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
        sha = self.server.commit(repository, files)
        address = f"{self.server.address}/{repository.partition('/')[2]}/commit/{sha}"
        self.send_json({"commitUrl": address, "commitOid": sha, "success": True})

    def api(self, repository: str, rest: list[str], body: bytes) -> None:
        what, revision, *below = rest or ["revision", "main"]
        if what == "preupload":
            modes = [
                ("lfs" if one["path"].endswith(".safetensors") else "regular", one) for one in json.loads(body)["files"]
            ]
            return self.send_json(
                {"files": [{"path": one["path"], "uploadMode": mode, "shouldIgnore": False} for mode, one in modes]}
            )
        if what == "commit" and self.command == "POST":
            return self.store(repository, body)
        found = self.find(repository, revision)
        if found is None:
            return None
        sha, files = found
        if what == "tree":
            folder = "/".join(below)
            listed = [entry(name, data) for name, data in files.items() if name.startswith(folder)]
            return self.send_json(listed)
        if what == "paths-info":
            paths = json.loads(body)["paths"]
            return self.send_json([entry(name, data) for name, data in files.items() if name in paths])
        siblings = [{"rfilename": name} for name in files]
        identity = repository.partition("/")[2]
        return self.send_json({"id": identity, "sha": sha, "private": False, "tags": [], "siblings": siblings})

    def file(self, repository: str, revision: str, name: str) -> None:
        if self.server.gated:
            return self.send(self.server.gated[0], b"", self.server.gated[1])
        found = self.find(repository, revision)
        if found is None:
            return None
        sha, files = found
        if name not in files:
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        data = files[name]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": sha}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            part = data[int(first) : int(last) + 1 if last else None]
            headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
            return self.send(206, part, headers)
        return self.send(200, data, headers)

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        hub = self.server
        if repository not in hub.commits:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        sha = hub.heads[repository] if revision == "main" else revision
        if sha not in hub.commits[repository]:
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return sha, hub.commits[repository][sha]

    def send_json(self, value: object) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def folder_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.is_file()}
