"""A judge's server that is broken, hostile or somebody else's: bounded, in one sentence, its neighbours kept."""

import copy
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace

import pytest

from prism.errors import DataError
from prism.judge import MEDICAL_CORRECTNESS, Case, asking, calibration, grading, ledger, replies
from prism.judge.choosing import JudgeError, choose
from prism.judge.grading import grade
from prism.judge.replies import NotGraded, Response
from prism.judge.spending import Spending
from prism.store import Store, digest
from tests.conftest import ROOT
from tests.loopback import Handler, Loopback

GRADE = '{"score": 8, "reason": "so"}'
SPOILT = "Question 3?"  # the one that gets an odd response


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "home")


def cases(n: int) -> list[Case]:
    return [Case(str(i), f"Question {i}?", f"the answer number {i}", f"the answer {i}") for i in range(n)]


def completion(content=GRADE, **fields) -> dict:
    message = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"object": "chat.completion", "model": "overlap", "choices": [message]} | fields


def http(body: bytes | dict, status: int = 200, **headers: str) -> bytes:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    return "\r\n".join([f"HTTP/1.1 {status} X", *(f"{n}: {v}" for n, v in fields.items() if v), "", ""]).encode() + body


def sends(raw: bytes, to: str = SPOILT):
    """A server's `instead`: these bytes to the prompt of one question."""

    def instead(handler: Handler, prompt: str) -> bool:
        if to not in prompt:
            return False
        handler.wfile.write(raw)
        return True

    return instead


def impatient(server: Loopback, **changes):
    return replace(choose(server.judge, {}), **{"attempts": 1} | changes)


BODIES = {
    "brackets": b"[" * 200_000,
    "brackets in a field": b'{"x": ' + b"[" * 200_000,
    "no object": b"[1, 2]",
    "a number of 5,000 digits": b'{"x": ' + b"9" * 5_000 + b"}",
    "nothing": b"",
    "no choices": {"object": "chat.completion"},
    "empty choices": {"choices": []},
    "choices no list": {"choices": {"0": 1}},
    "choices of text": {"choices": ["a"]},
    "no message": {"choices": [{}]},
    "a web page": b"<!doctype html><title>Sign in</title>",
    "an error": {"error": {"message": "upstream \x1b[31moverloaded"}},
    "content a list": completion(["a"]),
    "content a number": completion(8),
    "content null": completion(None),
    "content empty": completion(""),
    "content of brackets": completion("{" + "[" * 200_000 + "}"),
    "score of 400 digits": completion(json.dumps({"score": 10**400, "reason": "much"})),
    "score a list": completion('{"score": [8], "reason": "so"}'),
    "bytes that are no UTF-8": b"\xff\xfe\xfd",
}


class TestMalformedReplies:
    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    def test_one_is_one_unscored_sample_and_its_siblings_are_not_paid_again(self, store, body):
        with Loopback(grader=lambda _: GRADE, instead=sends(http(body))) as server:
            found = grade(impatient(server), MEDICAL_CORRECTNESS, cases(6), store)
            assert [g.score for g in found] == [0.8] * 3 + [None] + [0.8] * 2
            assert found[3].reason
            assert found[3].reason.isprintable()
            asked = server.asked.total()
            again = grade(impatient(server), MEDICAL_CORRECTNESS, cases(6), store)
            assert again == found
            assert server.asked.total() - asked <= 1

    def test_reasons_say_what_came(self, store):
        for name, reason in {
            "content a list": "the judge's reply is no text: list",
            "content null": "the judge's reply is empty",
            "a web page": "no answer in 1 attempts, the last one: HTTP 200 without a chat completion",
            "an error": r"no answer in 1 attempts, the last one: HTTP 200 without a chat completion: upstream "
            r"\x1b[31moverloaded",
        }.items():
            with Loopback(instead=sends(http(BODIES[name]), "Question 0?")) as server:
                assert grade(impatient(server), MEDICAL_CORRECTNESS, cases(1), store)[0].reason == reason
            store = Store(store.home / name)

    USAGES = ("10", -5, None, "many", 10**400, [1], {"a": 1}, True, 1.5, 10**12)

    @pytest.mark.parametrize("usage", [*({"prompt_tokens": u, "completion_tokens": u} for u in USAGES), [], "x", 3])
    def test_a_grade_beside_a_malformed_usage_counts_and_its_tokens_are_estimated(self, store, usage):
        reply = json.dumps(completion(usage=usage)).encode()
        with Loopback(instead=sends(http(reply), "Question")) as server:
            spending = Spending()
            found = grade(impatient(server), MEDICAL_CORRECTNESS, cases(3), store, spending=spending)
        assert [g.score for g in found] == [0.8] * 3
        assert spending.spent.requests == 3
        assert 3 <= spending.spent.prompt < 10_000
        assert 3 <= spending.spent.completion < 10_000

    @pytest.mark.parametrize("logprobs", [[], "x", {"content": 5}, {"content": [{"token": 8}]}, {"content": [[]]}])
    @pytest.mark.parametrize("kind", ["openai", "endpoint"])
    def test_malformed_likelihoods_leave_the_score_as_it_was_said(self, store, logprobs, kind):
        reply = completion()
        reply["choices"][0]["logprobs"] = logprobs
        with Loopback(instead=sends(http(reply), "Question")) as server:
            choice = impatient(server, kind=kind, **({"model": "gpt-4o-mini"} if kind == "openai" else {}))
            server.model = choice.model
            assert grade(choice, MEDICAL_CORRECTNESS, cases(1), store)[0].score == 0.8

    def test_no_bytes_raise_anything_else(self):
        """Mutations of whole replies: bits, bytes, cuts, repeated parts, odd values in each place."""
        chance, odd = random.Random(16), [None, -1, 1e308, 10**400, "x", "\x1b[2J", [], {}, True, [[[]]], "\ud800"]
        odd += [float("nan"), float("-inf"), "</think>", "<think>", '"score": 1', "{", "}", 0]
        parts = [{"token": t, "logprob": -0.5, "top_logprobs": [{"token": t, "logprob": -0.5}]} for t in GRADE]
        whole = completion(usage={"prompt_tokens": 1, "completion_tokens": 1})
        whole["choices"][0]["logprobs"] = {"content": parts}

        def places(value) -> list:
            inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
            return [each for key, child in list(inside) for each in [(value, key), *places(child)]]

        end = time.monotonic() + float(os.environ.get("PRISM_FUZZ_SECONDS", "3"))
        tried = 0
        while time.monotonic() < end:
            table = json.loads(json.dumps(whole))
            for _ in range(chance.choice([0, 1, 1, 2, 5])):
                found = chance.choice(places(table) or [({}, "")])
                found[0][found[1]] = copy.deepcopy(chance.choice(odd))
            body = bytearray(json.dumps(table).encode())
            for _ in range(chance.choice([0, 0, 1, 3])):
                at, to = sorted((chance.randrange(len(body)), chance.randrange(len(body))))
                body[at : chance.choice([at + 1, to])] = chance.choice(
                    [b"", bytes([chance.randrange(256)]), body[at:to] * 2, b"[" * 300]
                )
                body = body or bytearray(b" ")
            response = Response(chance.choice([200, 200, 400, 500]), bytes(body))
            try:
                reply = replies.read(response, "a prompt", "m", Spending(), weighed=bool(tried % 2))
                assert reply is None or reply.text.strip()
            except NotGraded:
                pass
            assert len(replies.detail(response)) <= 2 + replies.DETAIL
            tried += 1
        assert tried > 100


CUT = {
    "a body shorter than announced": http(b'{"choices": [', Content_Length="5000"),
    "chunks without an end": http(b'5\r\n{"cho\r\n', Content_Length="", Transfer_Encoding="chunked"),
    "a chunk of no size": http(b"zz\r\nabc\r\n", Content_Length="", Transfer_Encoding="chunked"),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a length of letters": http(b"{}", Content_Length="many"),
    "a head without end": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "an unknown compression": http(b"abc", Content_Encoding="br"),
    "no gzip": http(b"abc", Content_Encoding="gzip"),
    "half a gzip": http(gzip.compress(b"{}" * 99)[:20], Content_Encoding="gzip"),
    "an unknown charset": http(b"\xff{}", Content_Type="application/json; charset=nonsense"),
    "an odd cookie": http(b"{}", Set_Cookie="\x01=;;;,"),
    "nothing": b"",
}


class TestLimits:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(replies, "MAX_BODY", 100_000)

    LIMIT = "the judge's reply is longer than 100,000 bytes, which is the limit"

    def test_an_endless_body(self, store):
        sent = 0

        def instead(handler: Handler, prompt: str) -> bool:
            nonlocal sent
            if SPOILT not in prompt:
                return False
            handler.wfile.write(http(b"", Content_Length="", Transfer_Encoding="chunked"))
            while sent < 10**9:
                handler.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
                sent += 0x10000
            return True

        with Loopback(grader=lambda _: GRADE, instead=instead) as server:
            found = grade(impatient(server, attempts=3), MEDICAL_CORRECTNESS, cases(6), store)
        assert [g.score for g in found] == [0.8] * 3 + [None] + [0.8] * 2
        assert found[3].reason == self.LIMIT
        assert sent < 50_000_000

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_a_bomb_is_counted_as_it_unfolds(self, store, encoding):
        plain = json.dumps(completion()).encode() + b" " * 20_000_000
        packed = gzip.compress(plain) if encoding == "gzip" else zlib.compress(plain)
        assert len(packed) < replies.MAX_BODY
        with Loopback(instead=sends(http(packed, Content_Encoding=encoding), "Question")) as server:
            found = grade(impatient(server, attempts=3), MEDICAL_CORRECTNESS, cases(1), store)
            assert found[0].reason == self.LIMIT
            assert server.asked.total() == 1

    def test_a_compressed_reply_under_the_limit_is_read(self, store):
        packed = http(gzip.compress(json.dumps(completion()).encode()), Content_Encoding="gzip")
        with Loopback(instead=sends(packed, "Question")) as server:
            assert grade(impatient(server), MEDICAL_CORRECTNESS, cases(1), store)[0].score == 0.8

    def test_an_endless_error_is_read_in_part(self, store):
        raw = http(b"x" * 5_000_000, status=500)
        with Loopback(instead=sends(raw, "Question")) as server:
            found = grade(impatient(server), MEDICAL_CORRECTNESS, cases(1), store)
        assert found[0].reason == "no answer in 1 attempts, the last one: HTTP 500"

    @pytest.mark.parametrize("part", ["head", "body"])
    def test_one_byte_at_a_time_is_bounded_by_the_deadline_of_the_whole(self, store, part):
        stop = threading.Event()

        def instead(handler: Handler, prompt: str) -> bool:
            if SPOILT in prompt:
                raw = http(completion())
                start = 4 if part == "head" else raw.index(b"\r\n\r\n") + 4
                handler.wfile.write(raw[:start])
                for byte in raw[start:]:
                    handler.wfile.write(bytes([byte]))
                    if stop.wait(0.1):
                        break
            return SPOILT in prompt

        with Loopback(grader=lambda _: GRADE, instead=instead) as server:
            found = grade(impatient(server, timeout=2.0), MEDICAL_CORRECTNESS, cases(6), store)
            stop.set()
        assert [g.score for g in found] == [0.8] * 3 + [None] + [0.8] * 2
        assert found[3].reason == "no answer in 1 attempts, the last one: no answer within 2 s"

    @pytest.mark.parametrize("raw", CUT.values(), ids=CUT)
    def test_a_broken_response_is_one_unscored_sample(self, store, raw):
        with Loopback(grader=lambda _: GRADE, instead=sends(raw)) as server:
            found = grade(impatient(server), MEDICAL_CORRECTNESS, cases(6), store)
        assert [g.score for g in found] == [0.8] * 3 + [None] + [0.8] * 2
        assert found[3].reason.startswith("no answer in 1 attempts")
        assert found[3].reason.isprintable()

    def test_a_second_response_on_the_connection_is_not_another_samples(self, store):
        two = [completion(), completion('{"score": 0, "reason": "of another"}')]
        raw = b"".join(http(each, Connection="keep-alive") for each in two)

        def instead(handler: Handler, prompt: str) -> bool:
            if "Question 0?" in prompt:
                handler.wfile.write(raw)
                time.sleep(0.5)  # the client has long sent its next request, on this connection or another
            return "Question 0?" in prompt

        with Loopback(grader=lambda _: GRADE, instead=instead) as server:
            found = grade(impatient(server, in_flight=1), MEDICAL_CORRECTNESS, cases(4), store)
        assert [g.score for g in found] == [0.8] * 4


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("same", [True, False], ids=["same host", "another host"])
    def test_prompts_follow_none(self, store, status, same):
        with Loopback() as other, Loopback() as server:
            target = (
                "/elsewhere" if same else f"http://user:pass-word@127.0.0.1:{other.server_port}/v1?api_key=abcdefgh"
            )
            server.instead = sends(http(b"", status=status, Location=target), "Question")
            with pytest.raises(
                JudgeError, match=rf"redirects to .*/\w+ \({status}\), .* follow no redirect; name"
            ) as info:
                grade(impatient(server, attempts=3), MEDICAL_CORRECTNESS, cases(1), store)
            assert "pass-word" not in str(info.value)
            assert "api_key" not in str(info.value)
            assert not other.asked
            assert server.asked.total() == 1

    def test_one_among_answers_is_one_unscored_sample(self, store):
        raw = http(b"", status=307, Location="http://[::1/\x1b[31m")
        with Loopback(grader=lambda _: GRADE, instead=sends(raw)) as server:
            found = grade(impatient(server, in_flight=1), MEDICAL_CORRECTNESS, cases(6), store)
        assert [g.score for g in found] == [0.8] * 3 + [None] + [0.8] * 2
        assert "redirects to another address (307)" in found[3].reason


class TestPauses:
    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            *((text, 0) for text in ("nan", "inf", "-inf", "-5", "", "abc", "1e999", "5 5", "٣ x")),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 0),
            ("1e308", 60),
            ("86400", 60),
            ("0.5", 0.5),
            ("7", 7),
        ],
    )
    def test_retry_after_is_a_number_of_seconds_in_bounds(self, header, seconds):
        assert replies.pause(header) == seconds

    @pytest.mark.parametrize("header", ["nan", "inf", "-1"])
    def test_nonsense_does_not_delay_the_next_attempt(self, store, header, monkeypatch):
        slept = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        monkeypatch.setattr(asking.asyncio, "sleep", sleep)
        raw = http(b"{}", status=429, Retry_After=header)
        with Loopback(instead=sends(raw, "Question")) as server:
            grade(impatient(server, attempts=2), MEDICAL_CORRECTNESS, cases(1), store)
        assert len(slept) >= 1
        assert all(0 <= seconds <= 1 for seconds in slept)

    def test_ctrl_c_ends_a_pause(self, tmp_path):
        script = (
            "import sys; from pathlib import Path; from prism import judge; from prism.judge.choosing import choose\n"
            "from prism.judge.grading import grade; from prism.store import Store\n"
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "grade(choose(sys.argv[1]), judge.MEDICAL_CORRECTNESS, [judge.Case('a', 'Question', 'b', 'c')], "
            "Store(Path(sys.argv[2])))"
        )
        with Loopback(instead=sends(http(b"{}", status=429, Retry_After="60"), "Question")) as server:
            child = subprocess.Popen(
                [sys.executable, "-c", script, server.judge, str(tmp_path)],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
            )
            end = time.monotonic() + 60
            while not server.asked and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=20)
        assert said.decode().strip().endswith("KeyboardInterrupt")


class TestAddresses:
    @pytest.mark.parametrize(
        "text",
        [
            "http://[::1/v1#m",
            "http://]/v1#m",
            "http://h:99999/v1#m",
            "http://h:0/v1#m",
            "http://h:-1/v1#m",
            "http://h:port/v1#m",
            "http://h h/v1#m",
            "http://h/v 1#m",
            "http://h\t/v1#m",
            "http://h/v1\r\nX: y#m",
            "http://h\x00/v1#m",
            "http://h\x1b[31m/v1#m",
            "http://h/v1#m\x1b[31m",
            "http:///v1#m",
            "http://:80/v1#m",
            "http://a..b/v1#m",
            f"http://{'a' * 300}/v1#m",
            "http://h\u2100/v1#m",
            "http://\ud800/v1#m",
            "file:///etc/passwd#m",
            "FILE://h/v1#m",
            "http:/h/v1#m",
            "#m",
            "#",
            "openai:m\x1b[31m",
            "local:/models\x00/judge",
        ],
    )
    def test_what_is_no_address_is_one_sentence(self, text):
        with pytest.raises(JudgeError, match=r"http://HOST:PORT/v1#MODEL") as info:
            choose(text, {})
        assert str(info.value).isprintable()

    @pytest.mark.parametrize(
        "text",
        [
            "http://user:pass-word@h/v1#m",
            "http://pass-word@h/v1#m",
            "http://user:pass-word@[::1/v1#m",
            "http://user:pass#pass-word@h/v1#m",
            "http://user#pass-word@h#m",
            "http://user:pass/pass-word@h/v1#m",
            "http://user:pass?pass-word@h/v1#m",
            "http://user:pass-word%40h/v1#m",
            "HTTP://user:pass-word@h/v1#m",
            "user:pass-word@h/v1#m",
            "http://h/v1?api_key=pass-word#m",
            "http://h/v1?api_key=pass#pass-word#m",
            "http://h:99999/v1?key=pass-word#m",
        ],
    )
    def test_credentials_are_refused_and_not_shown(self, text):
        with pytest.raises(JudgeError) as info:
            choose(text, {})
        assert "pass-word" not in str(info.value)

    @pytest.mark.parametrize("text", ["http://user:pass-word@h/v1#m", "http://h/v1?api_key=pass-word#m"])
    def test_they_belong_into_the_keys_variable(self, text):
        with pytest.raises(JudgeError, match="its address .*; leave that out, and set PRISM_JUDGE_API_KEY"):
            choose(text, {})

    @pytest.mark.parametrize(
        "text", ["http://[::1]:8000/v1#m", "https://h.example/v1#org/model@2024", "http://127.0.0.1:80/a/b#two words"]
    )
    def test_what_is_an_address_stays_one(self, text):
        choice = choose(text, {})
        assert f"{choice.address}#{choice.model}" == text

    def test_a_line_end_after_it_is_nothing(self):
        assert choose(None, {"PRISM_JUDGE": "http://h/v1#m\r\n"}) == choose("http://h/v1#m", {})
        assert choose(None, {"PRISM_JUDGE": " \n"}) is None

    @pytest.mark.parametrize("where", ["~nobody-of-this-name/judge", "{}/circle/judge"])
    def test_a_folder_that_cannot_be_found(self, tmp_path, where):
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        with pytest.raises(JudgeError, match=r"the folder cannot be found \(.*\); name another"):
            choose(f"local:{where.format(tmp_path)}", {})

    @pytest.mark.parametrize("key", [" k3y-of-mine\r\n", "k3y-of-mine\n", "\tk3y-of-mine"])
    def test_a_keys_ends_are_stripped(self, key):
        assert choose("http://h/v1#m", {"PRISM_JUDGE_API_KEY": key}).key == "k3y-of-mine"
        assert choose("openai:gpt-4o", {"OPENAI_API_KEY": key}).key == "k3y-of-mine"

    @pytest.mark.parametrize(
        "key", ["k3y-of\r\nX: mine", "k3y-of mine", "k3y-of\x00mine", "k3y-of-m\u00fcne", "k3y\ud800of-mine"]
    )
    def test_a_key_that_no_header_takes_is_refused_unseen(self, key):
        for text, variable in {"http://h/v1#m": "PRISM_JUDGE_API_KEY", "openai:gpt-4o": "OPENAI_API_KEY"}.items():
            with pytest.raises(JudgeError, match=f"{variable}: holds a space, a line end or") as info:
                choose(text, {variable: key})
            assert "k3y" not in str(info.value)

    def test_an_empty_key_is_none(self):
        with pytest.raises(JudgeError, match="OPENAI_API_KEY is not set"):
            choose("openai:gpt-4o", {"OPENAI_API_KEY": " \r\n"})


class TestOwnFiles:
    def test_deep_json_in_the_ledger_is_a_damaged_line(self, store):
        with Loopback(grader=lambda _: GRADE) as server:
            first = grade(impatient(server), MEDICAL_CORRECTNESS, cases(2), store)
            log = next(store.home.glob("judgements/*/judgements.jsonl"))
            lines = log.read_bytes().splitlines(keepends=True)
            bare = {"key": "0" * 64}
            no_score = json.dumps({**bare, "check": digest(bare)[:12]}).encode()
            log.write_bytes(lines[0] + b"[" * 200_000 + b"\n" + b'{"key": ' + b"[" * 200_000 + b"\n" + no_score + b"\n")
            identity = grading.judgement_identity(impatient(server), MEDICAL_CORRECTNESS)
            assert len(ledger.read(store, identity)) == 1
            with pytest.warns(UserWarning, match=r"damaged lines \(3\)"):
                assert grade(impatient(server), MEDICAL_CORRECTNESS, cases(2), store) == first

    @pytest.mark.parametrize("text", ["[" * 200_000, "[]", "{}", '{"judge": 1}', "\xff", '{"kappa": [1]}'])
    def test_a_calibration_that_cannot_be_read(self, store, text):
        choice = choose("http://h/v1#m", {})
        path = calibration._path(choice, MEDICAL_CORRECTNESS, store)
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=r"cannot be read \(.*\); run `prism calibrate-judge` again"):
            calibration.load_calibration(choice, MEDICAL_CORRECTNESS, store)
