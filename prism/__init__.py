"""PRISM: did this adapter make this model better at this job, and is it still as good as last week's?"""

import os

__version__ = "0.1.0"

# No library reports what is done here. Each reads its variable when it is imported, and PRISM imports them later; what a
# user has set stays.
for _variable in (
    "HF_HUB_DISABLE_TELEMETRY",  # huggingface_hub's, transformers' and TRL's, which calls home at each training
    "UNSLOTH_DISABLE_STATISTICS",
    "DEEPEVAL_TELEMETRY_OPT_OUT",
    "DEEPEVAL_DISABLE_DOTENV",  # DeepEval would also read .env files
):
    os.environ.setdefault(_variable, "1")
