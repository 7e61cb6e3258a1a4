"""Uploads an adapter and its card to a repository of the hub, in one commit."""

from __future__ import annotations

import json
from pathlib import Path

from prism.errors import ModelError
from prism.store import hub
from prism.store.adapters import CONFIG, TOKENIZER, WEIGHTS, read_config
from prism.store.hub import Say

CARD = "README.md"


def contents(folder: Path, base: str, card: str) -> dict[str, bytes | Path]:
    """What is uploaded, by its name there: the card, the weights, the tokenizer if the adapter has its own.

    Its configuration names `base` in place of the folder on this machine that it was trained from.
    """
    config = {**read_config(folder, str(folder)), "base_model_name_or_path": base}
    files: dict[str, bytes | Path] = {
        CARD: card.encode(),
        CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
    }
    files[WEIGHTS] = folder / WEIGHTS
    for name in TOKENIZER:  # PRISM keeps it in a subfolder, others beside the weights
        file = next((file for file in (folder / "tokenizer" / name, folder / name) if file.is_file()), None)
        if file is not None:
            files[name] = file
    return files


def require_token(repo: str) -> None:
    """Raise ModelError if the hub would not know who pushes."""
    from huggingface_hub import get_token

    if not get_token():
        raise ModelError(
            f"{repo}: there is no token of the hub to push with; set HF_TOKEN, or run `hf auth login`, with write access"
        )


def push(files: dict[str, bytes | Path], repo: str, private: bool, say: Say) -> str:
    """Upload `files` to the model repository `repo`, made if there is none; returns the commit's address.

    `private` is for a new repository. Raises ModelError if the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    require_token(repo)
    added = [CommitOperationAdd(name, content) for name, content in files.items()]
    api = HfApi()
    try:
        hub.patiently(repo, lambda: api.create_repo(repo, private=private, exist_ok=True), say)
        message = "Adapter and card, by PRISM"
        return hub.patiently(repo, lambda: api.create_commit(repo, added, commit_message=message), say).commit_url
    except Exception as error:  # noqa: BLE001  # the client raises a dozen types of three libraries
        raise ModelError(
            f"{repo}: the hub at {constants.ENDPOINT} does not take it ({hub.reason_of(error)}); check the name OWNER/NAME, "
            f"and that the token may write there"
        ) from None
