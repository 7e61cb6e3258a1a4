"""What an experiment used is fetched at once by another machine, and a note of it is believed no further than that."""

import json
import threading

import pytest

from prism.store import digest, uses
from tests.test_shared import empty, machine  # noqa: F401
from tests.test_store import never, write

EXPERIMENT = {"spec": {"name": "a"}, "seeds": [42]}
MADE = [{"number": number} for number in range(12)]
URL = "memory://bucket/store"


@pytest.fixture
def noted(tmp_path):
    """Storage with twelve artifacts, and a note of ten of them."""
    store = machine(URL, tmp_path / "first")
    for identity in MADE[:2]:
        store.make("tables", identity, write)
    uses.fetch(store, EXPERIMENT)  # begins to count
    for identity in MADE[2:]:
        store.make("tables", identity, write)
    assert len(store.used) == 10
    uses.note(store, EXPERIMENT)
    return store


def note_of(store):
    return store.home / "uses" / f"{digest(EXPERIMENT)}.json"


def test_another_machine_has_it_before_it_asks(noted, tmp_path):
    other = machine(URL, tmp_path / "other")
    uses.fetch(other, EXPERIMENT)
    assert len(list((other.home / "tables").glob("*/manifest.json"))) == 10
    before = other.shared.remote.requests
    for identity in MADE[2:]:
        assert other.find("tables", identity)
    assert other.shared.remote.requests == before
    uses.note(other, EXPERIMENT)
    assert other.shared.remote.requests == before, "nothing has changed, so nothing is written"
    uses.fetch(other, EXPERIMENT)
    assert other.shared.remote.requests == before, "a machine that has run it asks for nothing"


def test_artifacts_are_fetched_side_by_side(noted, tmp_path, monkeypatch):
    other = machine(URL, tmp_path / "other")
    together, bring = threading.Barrier(10, timeout=20), other.shared.bring

    def slow(folder):
        together.wait()  # goes on when ten are under way
        return bring(folder)

    monkeypatch.setattr(other.shared, "bring", slow)
    uses.fetch(other, EXPERIMENT)
    assert len(list((other.home / "tables").glob("*/manifest.json"))) == 10


def test_what_is_used_since_is_noted_anew(noted, tmp_path):
    other = machine(URL, tmp_path / "other")
    uses.fetch(other, EXPERIMENT)
    for identity in MADE[:5]:
        other.find("tables", identity)
    uses.note(other, EXPERIMENT)
    third = machine(URL, tmp_path / "third")
    uses.fetch(third, EXPERIMENT)
    found = {folder.parent.name for folder in (third.home / "tables").glob("*/manifest.json")}
    assert found == {digest(identity) for identity in MADE[:5]}


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"tables": 1}', '["../../etc/passwd", 7, null]', json.dumps([f"tables/{'a' * 64}"])],
    ids=["empty", "half", "a table", "names that lead elsewhere", "what nobody made"],
)
def test_a_note_that_says_nothing_costs_nothing(content, tmp_path):
    store = machine(URL, tmp_path / "first")
    store.shared.remote.write(f"uses/{digest(EXPERIMENT)}.json", content.encode())
    uses.fetch(store, EXPERIMENT)
    assert {path.name for path in store.home.iterdir()} <= {"uses", ".work", "tables"}
    assert not list(store.home.rglob("manifest.json"))
    assert store.make("tables", MADE[0], write)


def test_storage_that_cannot_be_written_keeps_nobody_from_a_result(noted, tmp_path, monkeypatch):
    other = machine(URL, tmp_path / "other")
    uses.fetch(other, EXPERIMENT)
    other.find("tables", MADE[0])

    def refuses(*_, **__):
        from prism.errors import StoreError

        raise StoreError("may not be written")

    monkeypatch.setattr(other.shared.remote, "write", refuses)
    uses.note(other, EXPERIMENT)


def test_a_folder_notes_it_too_so_that_a_copy_has_it(tmp_path):
    from prism.store import Store, keeping

    store = Store(tmp_path / "home", print)
    uses.fetch(store, EXPERIMENT)
    store.make("tables", MADE[0], write)
    uses.note(store, EXPERIMENT)
    assert len(json.loads(note_of(store).read_text())) == 1
    target = machine(URL, tmp_path / "target")
    keeping.copy(store, target)
    other = machine(URL, tmp_path / "other")
    uses.fetch(other, EXPERIMENT)
    before = other.shared.remote.requests
    other.make("tables", MADE[0], never)
    assert other.shared.remote.requests == before
