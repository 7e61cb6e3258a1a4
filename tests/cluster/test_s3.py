"""A store in S3, on a real server: conditional puts, large objects, two machines, damage, bad credentials."""

import threading
import time

import pytest
from fsspec import config

pytest.importorskip("s3fs", reason="needs the cluster extra: make test-cluster")
pytest.importorskip("moto", reason="needs the cluster extra: make test-cluster")

from prism.errors import StoreError  # after what may skip the file
from prism.store import lease, listing, read_manifest
from prism.store.remote import PAGE
from tests.cluster.s3 import serving
from tests.test_shared import IDENTITY, NAME, listed, machine, made_once, never, taken_over, write


@pytest.fixture(scope="module")
def server():
    with serving() as found:
        yield found


@pytest.fixture
def url(server, monkeypatch):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(lease, "ASKED", 0.1)
    yield f"s3://{server.bucket()}/team"
    server.refuse = ""


def test_what_one_machine_made_another_finds(url, tmp_path):
    first, second = machine(url, tmp_path / "a"), machine(url, tmp_path / "b")
    made = first.make("adapters", IDENTITY, write)
    found = second.make("adapters", IDENTITY, never)
    assert read_manifest(found) == read_manifest(made)
    assert listed(first).keys() == {f"{NAME}.tar"}
    assert abs(listed(first)[f"{NAME}.tar"].time - time.time()) < 60


def test_requests_are_few(url, tmp_path, server):
    store = machine(url, tmp_path / "a")
    server.requests.clear()
    store.make("tables", IDENTITY, write)
    assert server.requests.total() <= 8, "not there (2), the probe (4), the object, its size"
    server.requests.clear()
    store.make("tables", {"a": 2}, write)
    assert server.requests.total() <= 4
    server.requests.clear()
    machine(url, tmp_path / "b").make("tables", IDENTITY, never)
    assert server.requests == {"GET": 1}
    server.requests.clear()
    machine(url, tmp_path / "b").make("tables", IDENTITY, never)
    assert server.requests.total() == 0


def test_a_listing_takes_a_request_a_thousand(url, tmp_path, server):
    remote = machine(url, tmp_path / "a").shared.remote
    for number in range(PAGE + 1):
        remote.write(f"tables/{number}.tar", b"x")
    server.requests.clear()
    assert len(remote.objects()) == PAGE + 1
    assert server.requests == {"GET": 2}


def test_both_ways_of_listing_find_the_same(url, tmp_path, server, monkeypatch):
    remote = machine(url, tmp_path / "a").shared.remote
    names = ["tables/a.tar", "tables/b c+ü.tar", "looks/2026/x.json", "x"]
    for number, name in enumerate(names):
        remote.write(name, b"x" * number)
    whole = f"{url.rpartition('/')[0]}"
    machine(f"{whole}/teammates", tmp_path / "b").shared.remote.write("tables/theirs.tar", b"x")
    found = {}
    for way in ("obstore", "s3fs"):
        monkeypatch.setattr(listing, "applies", lambda protocol, way=way: way == "obstore")
        server.requests.clear()
        asked = machine(url, tmp_path / "c").shared.remote
        found[way] = asked.objects(), asked.objects("tables"), asked.objects("none")
        assert server.requests["GET"] == 3 or way == "s3fs", "which asks twice where there is nothing"
        assert ("_files" in vars(asked)) == (way == "s3fs"), "a listing alone loads no s3fs"
    assert found["obstore"] == found["s3fs"]
    assert [each.name for each in found["obstore"][0]] == sorted(names)
    assert [each.size for each in found["obstore"][1]] == [0, 1]


def test_settings_in_files_are_left_to_s3fs(url, tmp_path, monkeypatch):
    assert listing.applies("s3")
    assert not listing.applies("gs")
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert not listing.applies("s3")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setitem(config.conf, "s3", {"anon": True})
    assert not listing.applies("s3")
    monkeypatch.delitem(config.conf, "s3")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert not listing.applies("s3")


@pytest.mark.parametrize("megabytes", [1, 120])
def test_the_first_writer_wins_whatever_the_size(url, tmp_path, megabytes):
    """What is large is put in parts; the condition is on the call that ends them."""
    remote = machine(url, tmp_path / "a").shared.remote
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name[:1].encode() * megabytes * 2**20)
    assert remote.write("big", tmp_path / "one")
    assert not remote.write("big", tmp_path / "two")
    assert remote.fetch("big", tmp_path / "found")
    assert (tmp_path / "found").read_bytes()[:3] == b"ooo"
    assert remote.size("big") == megabytes * 2**20
    assert remote.write("big", tmp_path / "two", replace=True)
    assert remote.fetch("big", tmp_path / "found")
    assert (tmp_path / "found").read_bytes()[:3] == b"ttt"


def test_of_writers_at_once_one_wins(url, tmp_path):
    won, start = [], threading.Barrier(8)

    def put(number):
        remote = machine(url, tmp_path / str(number)).shared.remote
        start.wait()
        if remote.write("x", str(number).encode()):
            won.append(str(number).encode())

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [machine(url, tmp_path / "a").shared.remote.read("x")] == won


def test_two_machines_make_it_once_and_the_second_says_that_it_waits(url, tmp_path):
    made_once(url, tmp_path)


def test_a_killed_machine_is_taken_over_from_its_checkpoint(url, tmp_path):
    taken_over(url, tmp_path)


def test_a_damaged_object_is_replaced(url, tmp_path):
    first = machine(url, tmp_path / "a")
    first.make("adapters", IDENTITY, write)
    first.shared.remote.write(f"{NAME}.tar", b"damaged", replace=True)
    with pytest.warns(UserWarning, match="is damaged"):
        machine(url, tmp_path / "b").make("adapters", IDENTITY, write)
    machine(url, tmp_path / "c").make("adapters", IDENTITY, never)


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_bad_credentials_are_one_sentence_before_any_work(url, tmp_path, server, code):
    server.refuse = code
    with pytest.raises(StoreError, match=r"cannot be read .*; check the credentials that its package finds"):
        machine(url, tmp_path / "a").make("adapters", IDENTITY, never)


def test_no_credentials_are_one_sentence(url, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreError, match=r"Credentials.*; check the credentials that its package finds"):
        machine(url, tmp_path / "a").make("adapters", IDENTITY, never)


def test_no_such_bucket_is_one_sentence_before_any_work(url, tmp_path):
    store = machine("s3://no-such-bucket-here/x", tmp_path / "a")
    with pytest.raises(
        StoreError, match=r"there is no s3://no-such-bucket-here; create it, or set another --prism-home"
    ):
        store.make("adapters", IDENTITY, never)
    with pytest.raises(StoreError, match="there is no s3://no-such-bucket-here"):
        store.shared.remote.objects()


def test_a_server_that_is_not_there_is_one_sentence(url, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    began = time.monotonic()
    with pytest.raises(
        StoreError, match=r"cannot be read \(EndpointConnectionError.*check the address and the network"
    ):
        machine(url, tmp_path / "a").make("adapters", IDENTITY, never)
    assert time.monotonic() - began < 60
