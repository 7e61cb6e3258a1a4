"""An OpenAI-compatible judge on 127.0.0.1 that misbehaves on request, for tests and for measuring.

    python -m tests.loopback --port 8009 --delay 0.2 --fail 0.1 --hang 0.01 --bad-json 0.05 --lifetime 300

prints the `--prism-judge` value to use and stops by itself. What befalls a request follows from its content and from how
often it was asked, so that every run of a test meets the same faults. Its grades are word overlap: no judge, but one whose
faults the calibration has to show.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

FENCED = re.compile(r"<data-([0-9a-f]{12})>\n(.*?)\n</data-\1>", re.DOTALL)
BAD_JSON = '{"reason": "cut off in the middle of a sent'
REFUSAL = "I'm sorry, but I can't help with judging this answer."
OUT_OF_RANGE = '{"score": 37, "reason": "beyond all praise"}'


def overlap(prompt: str) -> str:
    """The share of the reference's words that the answer holds, as DeepEval's prompts want their JSON."""
    texts = [text for _, text in FENCED.findall(prompt)]
    if '"statements"' in prompt:
        return json.dumps({"statements": [texts[0]]})
    for part in ("truths", "claims"):
        if f'"{part}"' in prompt and '"verdicts"' not in prompt:
            return json.dumps({part: [texts[0]]})
    if '"verdicts"' in prompt:
        return json.dumps({"verdicts": [{"verdict": "yes"} for _ in json.loads(texts[-1])]})
    answer, reference = (set(re.findall(r"\w+", text.lower())) for text in texts[1:3])
    return json.dumps({"score": round(10 * len(answer & reference) / max(1, len(reference))), "reason": "word overlap"})


def tokens(text: str, digits: bool = False) -> list[dict]:
    """A reply's tokens as OpenAI reports them: three parts sure of the score, one part of the number below.

    With `digits` each digit is a token, as most models but OpenAI's have it, and the other score's first digit is listed.
    """
    value = re.search(r'"score": "?(\d+)', text)
    found = []
    for part in re.finditer(r"\d|\D+" if digits else r"\d+|\D+", text):
        likely = {part[0]: 1.0}
        if value and part.start() == value.start(1):
            other = str(int(value[1]) - 1)[: 1 if digits else None]
            likely = {part[0]: 0.75, other: 0.25}
        listed = [{"token": token, "logprob": math.log(p)} for token, p in likely.items()]
        found.append({**listed[0], "top_logprobs": listed})
    return found


class Loopback(ThreadingHTTPServer):
    """`with Loopback(delay=0.2, fail=0.1) as server:` answers at `server.judge` until the block ends."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self,
        *,
        port: int = 0,
        delay: float = 0.0,
        fail: float = 0.0,
        hang: float = 0.0,
        bad_json: float = 0.0,
        refuse: float = 0.0,
        out_of_range: float = 0.0,
        key: str = "",
        model: str = "overlap",
        grader: Callable[[str], str] = overlap,
        tokens: Callable[[str], list[dict]] | None = None,
        refuses: str = "",
        finish: str = "stop",
        instead: Callable[[Handler, str], bool] = lambda *_: False,
        longest_hang: float = 60.0,
        lifetime: float = 300.0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.delay, self.fail, self.hang = delay, fail, hang
        self.spoilt = {BAD_JSON: bad_json, REFUSAL: refuse, OUT_OF_RANGE: out_of_range}
        self.key, self.model, self.grader = key, model, grader
        self.tokens, self.refuses, self.finish, self.refused = tokens, refuses, finish, 0
        self.instead = instead  # sends a response of its own to a prompt, and says whether it did
        self.longest_hang, self.lifetime = longest_hang, lifetime
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()  # requests by prompt
        self.answered: Counter[str] = Counter()  # of these, those that got a reply
        self.faults: Counter[str] = Counter()
        self.bodies: list[dict] = []
        self.now = self.most_at_once = 0

    @property
    def judge(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1#{self.model}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self.bound = threading.Timer(self.lifetime, self.stop)
        self.bound.daemon = True
        self.bound.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bound.cancel()
        self.stop()

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def fate(self, prompt: str, attempt: int) -> str:
        drawn = random.Random(hashlib.sha256(f"{attempt} {prompt}".encode()).digest()).random()
        if drawn < self.hang:
            return "hang"
        if drawn < self.hang + self.fail:
            return "429" if attempt % 2 else "500"
        return "reply"

    def reply(self, prompt: str) -> str:
        """A spoilt reply is the prompt's own fate: asked again, the judge would say the same."""
        drawn = random.Random(hashlib.sha256(prompt.encode()).digest()).random()
        for text, share in self.spoilt.items():
            if drawn < share:
                return text
            drawn -= share
        return self.grader(prompt)

    def handle_error(self, *_: object) -> None:
        """A client that was killed, or gave up waiting, is no error of the server's."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Loopback

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server, prompt = self.server, body["messages"][0]["content"]
        if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
            return self.send(401, {"error": {"message": "Incorrect API key provided"}})
        if body["model"] != server.model or not self.path.endswith("/v1/chat/completions"):
            return self.send(404, {"error": {"message": f"The model `{body['model']}` does not exist"}})
        if server.refuses in body:
            server.refused += 1
            return self.send(400, {"error": {"message": f"unknown field: {server.refuses}"}})
        with server.lock:
            server.asked[prompt] += 1
            server.bodies.append(body)
            fate = server.fate(prompt, server.asked[prompt])
            server.faults[fate] += 1
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
        try:
            server.stopping.wait(server.longest_hang if fate == "hang" else server.delay)
        finally:
            with server.lock:
                server.now -= 1
        if fate == "hang" or server.stopping.is_set():
            self.close_connection = True
            return None
        if fate != "reply":
            return self.send(int(fate), {"error": {"message": "try again"}})
        if server.instead(self, prompt):
            self.close_connection = True
            return None
        text = server.reply(prompt)
        with server.lock:
            server.answered[prompt] += 1
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": server.finish}
        if body.get("logprobs") and server.tokens:
            message["logprobs"] = {"content": server.tokens(text)}
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(text) // 4}
        return self.send(
            200, {"object": "chat.completion", "model": body["model"], "choices": [message], "usage": usage}
        )

    def send(self, status: int, table: dict) -> None:
        data = json.dumps(table).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description="A misbehaving judge on loopback.")
    parser.add_argument("--port", type=int, default=0)
    for name in ("delay", "fail", "hang", "bad-json", "refuse", "out-of-range"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--lifetime", type=float, default=300.0)
    with Loopback(**vars(parser.parse_args())) as server:
        print(server.judge, flush=True)
        try:
            server.stopping.wait()
        except KeyboardInterrupt:
            return
        finally:
            time.sleep(0.1)
            print(f"{server.asked.total()} requests, {dict(server.faults)}", flush=True)


if __name__ == "__main__":
    main()
