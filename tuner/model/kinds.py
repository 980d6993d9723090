"""Whether a model is of the kind that a task is for, told from its configuration: `fits(model, task, at="model.id", progress=print)`."""

from __future__ import annotations

from transformers import PretrainedConfig

from tuner.errors import TuneError
from tuner.model.heads import HEADS
from tuner.model.load import Progress, load_config
from tuner.schema.model import Model
from tuner.schema.task import Task

NEEDS = {
    "causal": "one that writes (Llama, Qwen, SmolLM2, …)",
    "sequence": "one that reads texts (BERT, RoBERTa, Qwen, …)",
    "embedding": "one that reads texts (BERT, MPNet, Qwen, …)",
    "seq2seq": "one that reads a text and writes another (T5, BART, …)",
    "speech": "one that hears and writes (Whisper)",
    "audio": "one that hears (wav2vec2, HuBERT, Whisper, …)",
    "image_text": "one that sees and writes (Qwen-VL, Idefics3, LLaVA, …)",
    "image": "one that sees (ViT, ConvNeXt, ResNet, …)",
    "detection": "one that finds objects (DETR, YOLOS, RT-DETR, …)",
    "masked": "one that fills in words (BERT, RoBERTa, ModernBERT, …)",
    "span": "one that finds answers in texts (BERT, RoBERTa, …)",
    "segment": "one that labels pixels (SegFormer, UperNet, BEiT, …)",
    "token": "one that labels words (BERT, RoBERTa, …)",
}
# What a model does, by the first of these heads that Transformers has for it; and the tasks for it.
DOES = {
    "speech": ("hears and writes", "transcribe"),
    "image_text": ("sees and writes", "vlm"),
    "seq2seq": ("reads a text and writes another", "seq2seq, translate, summarize"),
    "causal": ("writes", "sft, pretrain, dpo, classify, embed, …"),
    "masked": ("reads a text as a whole and writes none", "classify, tag, qa, embed, fill_mask, …"),
    "detection": ("finds objects in images", "detect"),
    "segment": ("labels the pixels of images", "segment"),
    "image": ("labels images", "classify_image"),
    "audio": ("labels recordings", "classify_audio"),
    "": ("does something else", ""),
}
READ = ("causal", "masked", "sequence", "seq2seq")
LOOK = ("speech", "audio", "image", "detection", "segment")  # heads of models that see or hear
AHEAD = ("bert-generation", "xlnet")  # that look at what follows, and fill in no hidden words


def fits(model: Model, task: Task, *, at: str, progress: Progress) -> None:
    """Raises TuneError (code 2) for a model of another kind than the task is for; code 4 where its configuration cannot be had."""
    if HEADS[task.head].auto is None:  # a part of a pipeline, which tells that itself
        return
    config = load_config(model, progress=progress)
    if model.trust_remote_code and getattr(config, "auto_map", None):  # code of its own: nobody knows what it is
        return
    ahead = task.head == "causal" and looks_ahead(config)
    if not ahead and _has(config, task.head):
        return
    does, tasks = _does(config)
    what = f"{model.id} ({config.model_type}) {does}, and `task={task.kind}` needs {NEEDS[task.head]}"
    if ahead:
        what += ": it would learn to copy what it sees ahead"
    choose = "choose another model" if at == "model.id" else "name another"
    raise TuneError(what, at, f"{choose}, or a task for this one: {tasks}" if at == "model.id" and tasks else choose)


def looks_ahead(config: PretrainedConfig) -> bool:
    """Whether each token sees those that follow it, though Transformers has a class that writes with the model.

    Encoders do where they are not told to be a decoder, and language models that were made to embed texts.
    """
    if config.is_encoder_decoder:
        return False
    language = config.get_text_config()
    if getattr(language, "use_bidirectional_attention", None) is True or getattr(language, "is_causal", None) is False:
        return True
    encoder = type(config) in HEADS["masked"].auto._model_mapping or config.model_type in AHEAD
    return encoder and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))


def _has(config: PretrainedConfig, head: str) -> bool:
    """Whether Transformers has such a head for the model, and it is made for what such a head is used for."""
    there = type(config) in HEADS[head].auto._model_mapping
    if head == "causal":  # the decoder alone of one that reads first would be taken
        return there and not config.is_encoder_decoder
    if head == "embedding":  # any model has one
        return there and (any(_has(config, reads) for reads in READ) or not any(_has(config, looks) for looks in LOOK))
    return there


def _does(config: PretrainedConfig) -> tuple[str, str]:
    """What the model does, and the tasks for it."""
    ahead = looks_ahead(config)
    heads = (head for head in DOES if not (ahead and head == "causal") and _has(config, head))
    return DOES[next(heads, "masked" if ahead else "")]
