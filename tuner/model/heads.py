"""What models end with: `HEADS["sequence"]` says which class of Transformers and which task type of PEFT a head is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn
from transformers import (
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForObjectDetection,
    AutoModelForQuestionAnswering,
    AutoModelForSemanticSegmentation,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
)

# Modules that heads are made of, by the names that Transformers' models give them: they are new, so nothing of them is quantised.
_PARTS = ("classifier", "projector", "score", "pre_classifier", "head", "pooler", "qa_outputs", "decode_head", "neck")
PARTS = tuple(rf"(.*\.)?{name}" for name in _PARTS)  # as Transformers matches the modules that it leaves as they are


@dataclass(frozen=True, kw_only=True)
class Head:
    """`auto`: the class that loads it; `peft`: PEFT's name of its task, if it is used; `new`: whether it is trained from nothing."""

    auto: Any
    peft: str | None = None
    new: bool = True


HEADS = {
    "causal": Head(auto=AutoModelForCausalLM, peft="CAUSAL_LM", new=False),
    "sequence": Head(auto=AutoModelForSequenceClassification, peft="SEQ_CLS"),
    "embedding": Head(auto=AutoModel, peft="FEATURE_EXTRACTION", new=False),
    "seq2seq": Head(auto=AutoModelForSeq2SeqLM, peft="SEQ_2_SEQ_LM", new=False),
    "speech": Head(auto=AutoModelForSpeechSeq2Seq, new=False),
    "audio": Head(auto=AutoModelForAudioClassification),
    "image_text": Head(auto=AutoModelForImageTextToText, new=False),
    "image": Head(auto=AutoModelForImageClassification),
    "diffusion": Head(auto=None, new=False),  # none: what is trained is a part of a pipeline
    "detection": Head(auto=AutoModelForObjectDetection),
    "masked": Head(auto=AutoModelForMaskedLM, new=False),
    "span": Head(auto=AutoModelForQuestionAnswering),  # PEFT's own class of it (QUESTION_ANS) leaves the token types out
    "segment": Head(auto=AutoModelForSemanticSegmentation),
    "token": Head(auto=AutoModelForTokenClassification, peft="TOKEN_CLS"),
}


def with_labels(config: PretrainedConfig, names: Sequence[str], problem: str | None) -> PretrainedConfig:
    """The configuration of a model with an output for each label; `problem`: Transformers' name of what is learned."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    if problem:
        config.problem_type = cast(Any, problem)
    return config


BACKBONES = ("encoder", "backbone")  # what is pretrained, where it has not the name that all of a family give it: Whisper's, UperNet's

# What detectors tell classes and boxes with; some have such parts within their backbone, one for each of its layers.
TELLS = (
    "class_labels_classifier",
    "bbox_predictor",
    "class_embed",
    "bbox_embed",
    "enc_score_head",
    "enc_bbox_head",
    "denoising_class_embed",
)


def telling(base: PreTrainedModel) -> list[str]:
    """The modules of a detector that tell classes and boxes, by their whole names; of lists of modules each by itself."""
    found = [(name, module) for name, module in base.named_modules() if name.rpartition(".")[2] in TELLS]
    return [
        whole
        for name, module in found
        for whole in ([f"{name}.{number}" for number in range(len(module))] if isinstance(module, nn.ModuleList) else [name])
    ]


def new_modules(base: PreTrainedModel, missing: Sequence[str] = ()) -> list[str]:
    """Modules that no pretrained model brings, by name: what stands beside the backbone, and what of it was `missing` from the weights."""
    if tells := telling(base):
        return tells
    beside = [
        name
        for name, module in base.named_children()
        if name not in (base.base_model_prefix, *BACKBONES) and next(module.parameters(), None) is not None
    ]
    within = {name.partition(".")[2].partition(".")[0] for name in missing if name.startswith(f"{base.base_model_prefix}.")}
    return [*beside, *sorted(within - {"embeddings", "encoder", "layers", "layer", "transformer", "h", ""})]


UNUSED = ("pooler",)  # of a model whose tokens become a vector: what makes one of the first token alone


def linear_parts(base: PreTrainedModel, modules: Sequence[str]) -> list[str]:
    """The linear maps of some modules, by their whole names."""
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and any(f".{part}." in f".{name}." for part in modules)
    ]
