"""What a Whisper is told beside the recording: `settings(run)` (language, what is never written), `transcripts(run, model, features)`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from tuner.context import Run
from tuner.errors import TuneError
from tuner.model.load import load_config
from tuner.model.processors import load_generation
from tuner.schema.audio import UNSPACED, Transcribe
from tuner.train import encoders


def task_of(run: Run) -> Transcribe:
    """The recipe's task."""
    assert isinstance(run.recipe.task, Transcribe)
    return run.recipe.task


def settings(run: Run) -> Any:
    """The model's generation settings, with the language that is spoken. Raises TuneError (code 2) where it is not said, or not known."""

    def make() -> Any:
        task, key = task_of(run), "task.language"
        found: Any = load_generation(run.recipe.model, progress=run.tell)
        known = found.to_dict()
        found.forced_decoder_ids, found.return_timestamps = None, False
        code = TO_LANGUAGE_CODE.get((task.language or "").lower(), (task.language or "").lower())
        if not known.get("is_multilingual", False):
            if code not in ("", "en") or task.translate:
                what = (
                    "this model knows English alone" if code not in ("", "en") else "this model translates nothing: it knows English alone"
                )
                raise TuneError(what, key, "leave it out, or take a model of many languages")
            return found
        if f"<|{code}|>" not in known["lang_to_id"]:
            what = (
                f"`{task.language}` is no language that this model knows"
                if code
                else "this model knows many languages: which one is spoken?"
            )
            raise TuneError(
                what, key, "say it as `zh`, `de`, `chinese`, …: " + ", ".join(sorted(t.strip("<|>") for t in known["lang_to_id"]))
            )
        found.language, found.task = code, "translate" if task.translate else "transcribe"
        return found

    return run.keep("generation", make)


def tokenizer_of(run: Run) -> Any:
    """Whisper's tokenizer, which begins a text with the language and what is to be done."""
    tokenizer: Any = encoders.tokenizer_of(run)
    if "<|startoftranscript|>" not in tokenizer.get_vocab():
        raise TuneError(
            f"{run.recipe.model.id} is no Whisper", "model.id", "`task: transcribe` trains Whisper's models, such as openai/whisper-small"
        )
    known = settings(run).to_dict()
    tokenizer.set_prefix_tokens(language=known.get("language"), task=known.get("task"))
    return tokenizer


def english(run: Run) -> bool:
    """Whether the texts are English."""
    return settings(run).to_dict().get("language", "en") == "en" or task_of(run).translate


def spaced(run: Run) -> bool:
    """Whether the texts have spaces between words."""
    return task_of(run).translate or (task_of(run).language or "").lower() not in UNSPACED


@torch.inference_mode()
def transcripts(run: Run, model: Any, features: torch.Tensor) -> Sequence[str]:
    """What the model writes of recordings, greedily [rows]."""
    tokenizer, config = tokenizer_of(run), copy.deepcopy(settings(run))
    room = load_config(run.recipe.model, progress=run.tell).max_target_positions - len(tokenizer.prefix_tokens) - 1
    config.max_length, config.max_new_tokens = None, min(run.recipe.eval.max_new_tokens, room)
    config.do_sample, config.num_beams = False, 1
    inputs = features.to(next(model.parameters()).dtype)
    mask = torch.ones(inputs.shape[0], inputs.shape[-1], dtype=torch.long, device=inputs.device)
    out = model.generate(input_features=inputs, attention_mask=mask, generation_config=config)
    return [text.strip() for text in tokenizer.batch_decode(out, skip_special_tokens=True)]
