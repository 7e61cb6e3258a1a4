"""Who is measured on a GPU, and how: the lines of the tables of `benchmarks.speed.gpu`."""

from __future__ import annotations

from typing import Any

STEP_TOKENS = 16_384
PACKED = {"packing": True, "per_device_train_batch_size": STEP_TOKENS // 1024}
PADDED = {"packing": False, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 15}
FAST = {
    "optim": "adamw_torch_fused",  # adamw_8bit launches one kernel per matrix: 27 ms of a step of 318 ms
    "torch_compile": True,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": False, "rms_norm": False, "swiglu": False, "fused_linear_cross_entropy": True},
}
SMALL = {"per_device_train_batch_size": 16, "gradient_checkpointing": True}
PUBLISHED = {"packing": False, "per_device_train_batch_size": 16, "max_steps": 120, "logging_steps": 10}
CHECKPOINTED = PUBLISHED | {"gradient_checkpointing": True}
LONG = {"questions": 60}  # about 650 tokens a row, as long as phase 3's
SMALLEST = {
    "packing": True,
    "torch_compile": True,
    "per_device_train_batch_size": 8,
    "max_steps": 120,
    "logging_steps": 10,
    "optim": "adamw_torch_fused",
}
OWN = ("processes", "questions")  # of a contender that trains; the rest is [sft]
FOUR, EIGHT, HALF = {"load_in_4bit": True}, {"load_in_8bit": True}, {}
SMALL_MODEL, LARGE_MODEL, SMALLEST_MODEL, GEMMA = "Qwen2.5-1.5B", "Qwen3-4B", "SmolLM2-135M", "Gemma-3-1B"

# name: (job, library, twin, [model] options, options of the job)
CONTENDERS: dict[str, tuple[str, str, str, dict[str, Any], dict[str, Any]]] = {
    "PRISM: 4-bit, packed, compiled, fused loss": ("train", "prism", SMALL_MODEL, FOUR, PACKED | FAST),
    "plain TRL: 4-bit, padded, checkpointing": (
        "train",
        "plain",
        SMALL_MODEL,
        FOUR,
        PADDED | {"gradient_checkpointing": True},
    ),
    "plain TRL: 4-bit, packed, checkpointing": (
        "train",
        "plain",
        SMALL_MODEL,
        FOUR,
        PACKED | {"gradient_checkpointing": True},
    ),
    "Unsloth: 4-bit, packed, checkpointing": (
        "train",
        "unsloth",
        SMALL_MODEL,
        FOUR,
        PACKED | {"gradient_checkpointing": True},
    ),
    "Unsloth: 4-bit, packed, no checkpointing": (
        "train",
        "unsloth",
        SMALL_MODEL,
        FOUR,
        PACKED | {"gradient_checkpointing": False},
    ),
    "PRISM as published: 4-bit, 16 rows": ("train", "prism", SMALL_MODEL, FOUR, PUBLISHED),
    "PRISM as published: 8-bit Qwen3-4B, 16 rows": ("train", "prism", LARGE_MODEL, EIGHT, PUBLISHED),
    "PRISM as published: SmolLM2-135M, 8,192 tokens packed": ("train", "prism", SMALLEST_MODEL, HALF, SMALLEST),
    "PRISM as published: SmolLM2-135M, 32 rows": (
        "train",
        "prism",
        SMALLEST_MODEL,
        HALF,
        PUBLISHED | {"per_device_train_batch_size": 32, "max_steps": 600},  # 15 s: one late capture takes a second
    ),
    "plain TRL as published: SmolLM2-135M, 8,192 tokens packed": (
        "train",
        "plain",
        SMALLEST_MODEL,
        HALF,
        SMALLEST | {"torch_compile": False, "gradient_checkpointing": False},
    ),
    "plain TRL as published: 4-bit, 16 rows": ("train", "plain", SMALL_MODEL, FOUR, CHECKPOINTED),
    "plain TRL as published: 8-bit Qwen3-4B, 16 rows": ("train", "plain", LARGE_MODEL, EIGHT, CHECKPOINTED),
    "plain TRL as published: SmolLM2-135M, 32 rows": (
        "train",
        "plain",
        SMALLEST_MODEL,
        HALF,
        PUBLISHED | {"per_device_train_batch_size": 32, "gradient_checkpointing": False},
    ),
    "Unsloth as published: 4-bit, 16 rows, padding-free": (
        "train",
        "unsloth",
        SMALL_MODEL,
        FOUR,
        CHECKPOINTED | {"padding_free": True},  # its notebooks' own choice where nothing is said
    ),
    # One adapter over two GPUs, beside the same lines of one.
    "PRISM over two GPUs: 4-bit, packed, compiled, fused loss": (
        "train",
        "prism",
        SMALL_MODEL,
        FOUR,
        PACKED | FAST | {"max_steps": 60, "processes": 2},
    ),
    "PRISM over one GPU: 4-bit, packed, compiled, fused loss": (
        "train",
        "prism",
        SMALL_MODEL,
        FOUR,
        PACKED | FAST | {"max_steps": 60},
    ),
    "PRISM as published over two GPUs: 4-bit, 16 rows": (
        "train",
        "prism",
        SMALL_MODEL,
        FOUR,
        PUBLISHED | {"processes": 2},
    ),
    "PRISM over one GPU: 4-bit, 16 long rows": ("train", "prism", SMALL_MODEL, FOUR, PUBLISHED | LONG),
    "PRISM over two GPUs: 4-bit, 16 long rows": (
        "train",
        "prism",
        SMALL_MODEL,
        FOUR,
        PUBLISHED | LONG | {"processes": 2},
    ),
    "PRISM: 4-bit base, adapter merged, captured step": ("answer", "prism", SMALL_MODEL, FOUR, {}),
    "PRISM: bf16 base, captured step": ("answer", "prism", SMALL_MODEL, HALF, {"many": 10_000}),
    "PRISM: the same, one question a prompt": ("answer", "prism", SMALL_MODEL, HALF, {"questions": 1}),
    "PRISM: bf16 Gemma 3 1B, captured step": ("answer", "prism", GEMMA, HALF, {}),
    "PRISM: bf16 Gemma 3 1B, prompts beyond its window": ("answer", "prism", GEMMA, HALF, {"questions": 60}),
    "plain transformers: bf16 Gemma 3 1B, batch 512": ("answer", "plain", GEMMA, HALF, {"batch": 512}),
    "plain transformers: bf16 Gemma 3 1B, batch 128, beyond its window": (
        "answer",
        "plain",
        GEMMA,
        HALF,
        {"batch": 128, "questions": 60},
    ),
    "plain transformers: bf16, batch 512": ("answer", "plain", SMALL_MODEL, HALF, {"batch": 512}),
    "plain transformers: bf16, batch 512, one question": (
        "answer",
        "plain",
        SMALL_MODEL,
        HALF,
        {"batch": 512, "questions": 1},
    ),
    "plain transformers: 4-bit, batch 128": ("answer", "plain", SMALL_MODEL, FOUR, {"batch": 128}),
    "Unsloth fast inference: 4-bit, batch 128": ("answer", "unsloth", SMALL_MODEL, FOUR, {"batch": 128}),
    "PRISM on a small GPU: 4-bit, checkpointing, 16 rows": ("train", "unsloth", SMALL_MODEL, FOUR, SMALL),
    "PRISM on a small GPU: 8-bit Qwen3-4B, checkpointing, 16 rows": ("train", "unsloth", LARGE_MODEL, EIGHT, SMALL),
}
