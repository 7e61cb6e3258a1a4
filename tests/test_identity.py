"""What an adapter and its answers are made of: what the digests cover, and when stored ones are made again."""

import ast
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from prism.models import identity
from prism.rows import Example
from tests.conftest import ROOT
from tests.scored import tiny_spec

RECORDED = Path(__file__).with_name("paths.json")
MODELS = ROOT / "prism" / "models"
PATHS = {
    "training": (
        "TRAINING_VERSION",
        (
            "load",
            "chat",
            "train",
            "tokens",
            "checkpointing",
            "own_steps",
            "ahead",
            "packing",
            "captured",
            "lean",
            "beginnings",
            "dense",
            "int8",
            "flat",
            "loss",
            "vision",
            "anatomy",
        ),
    ),
    "answering": (
        "ANSWERING_VERSION",
        (
            "load",
            "adapters",
            "chat",
            "reading",
            "beginnings",
            "generate",
            "likelihoods",
            "decode",
            "families",
            "layout",
            "attention",
            "kernels",
            "dense",
            "int8",
            "vision",
        ),
    ),
}


def code_digest(module: str) -> str:
    """Of a module's code: comments, docstrings and layout make no difference."""
    tree = ast.parse((MODELS / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def at_hand() -> dict:
    return {
        path: {"version": getattr(identity, name), "code": {module: code_digest(module) for module in modules}}
        for path, (name, modules) in PATHS.items()
    }


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="other Pythons write a syntax tree otherwise")
@pytest.mark.parametrize("path", PATHS)
def test_changed_code_of_a_path_is_decided_about(path):
    """Users keep adapters and answers for weeks; they are made again where the code that makes them gives others."""
    recorded, found = json.loads(RECORDED.read_text(encoding="utf-8"))[path], at_hand()[path]
    changed = [module for module, digest in found["code"].items() if recorded["code"].get(module) != digest]
    assert found == recorded, (
        f"the code of the {path} path changed ({', '.join(changed) or 'its version'}). If the same inputs may now give "
        f"another result, raise {PATHS[path][0]} in prism/models/identity.py. Then, or if results are the same, record "
        f"it: python -m tests.test_identity"
    )


def example(image: Path | None = None) -> Example:
    return Example("a", ({"role": "user", "content": "Which organ?"},), "heart", "a", (image,) if image else ())


def picture(folder: Path, colour: str) -> Path:
    path = folder / f"{colour}.png"
    Image.new("RGB", (8, 8), colour).save(path)
    return path


def test_the_same_questions_about_other_pictures_are_another_adapter(tmp_path):
    spec = tiny_spec(tmp_path)
    made = [
        identity.adapter_identity(spec, {"bytes": "0"}, [example(image)], 42, tmp_path)
        for image in (None, picture(tmp_path, "red"), picture(tmp_path, "blue"))
    ]
    assert len({found["rows"] for found in made}) == 3
    moved = picture(tmp_path, "red").rename(tmp_path / "moved.png")
    assert identity.adapter_identity(spec, {"bytes": "0"}, [example(moved)], 42, tmp_path) == made[1]


def test_the_reference_is_part_of_an_adapter_and_not_of_an_answer(tmp_path):
    spec, other = tiny_spec(tmp_path), replace(example(), reference="lung")
    trained = [identity.adapter_identity(spec, {}, [e], 42, tmp_path)["rows"] for e in (example(), other)]
    asked = [identity.predictions_identity(spec, {}, None, [e], "answers")["messages"] for e in (example(), other)]
    assert trained[0] != trained[1]
    assert asked[0] == asked[1]


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(at_hand(), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"recorded in {RECORDED.relative_to(ROOT)}\n")
