"""Keeps libraries from talking over us: `quiet()`, called before they are imported by whatever runs models for a person."""

from __future__ import annotations

import logging
import os
import warnings

SETTINGS = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # it warns of every retry; what fails in the end is told by us
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


def quiet() -> None:
    """Progress bars, advice and deprecations of libraries off, unless the person's environment says otherwise."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch|peft|transformers|accelerate|bitsandbytes")
