"""The `eval:` section: what is measured, base against tuned, on the held-out rows. `eval: {metrics: [json, exact_match]}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuner.schema.base import Section, opt

# What a metric of a written answer gives, by name; a person's own come from `@metric` (tuner/extend.py).
METRICS = {
    "exact_match": "1 where the answer is the reference, as text or as equal JSON",
    "f1": "how many words answer and reference share, as SQuAD counts them",
    "numeric": "1 where the last number of the answer (behind `####` or in `\\boxed{}`, where there is one) is that of the reference",
    "regex": "1 where `eval.pattern` is found in the answer",
    "json": "1 where the answer is JSON; and for each field of the reference 1 where it is there and equal",
    "json_schema": "1 where it is JSON that `eval.json_schema` takes",
    "tool_calls": "1 where it calls functions as their schemas say; and 1 where the calls are those of the reference",
    "bleu": "sacrebleu's BLEU of all rows, 0 to 100",
    "chrf": "sacrebleu's chrF of all rows, 0 to 100",
    "rouge": "F of ROUGE-1, ROUGE-2 and ROUGE-L",
}
NEEDS = {"regex": "pattern", "json_schema": "json_schema"}  # the key that a metric needs


@dataclass(kw_only=True)
class LmEval(Section):
    """Tasks of lm-evaluation-harness (`pip install 'tuner[lm-eval]'`), asked of base and tuned alike."""

    tasks: list[str] = opt(factory=list, content="baseline")
    """Names (`arc_easy`, `mmlu`, `gsm8k`), or files of your own (`./sums.yaml`), which hold no code."""
    limit: int | None = opt(None, affects="baseline evaluate", ge=1)
    """The first so many rows of each task."""
    num_fewshot: int | None = opt(None, affects="baseline evaluate", ge=0)
    """Examples before each question; default: the task's own number."""
    apply_chat_template: bool = opt(False, affects="baseline evaluate")
    """Ask by the model's chat template, examples as turns."""


@dataclass(kw_only=True)
class Judge(Section):
    """A model behind an OpenAI-compatible address that chooses between base's and tuned's answers; its key is OPENAI_API_KEY."""

    url: str = opt(affects="evaluate")
    """Its address: `http://localhost:8000/v1`."""
    model: str = opt(affects="evaluate")
    """Its name there."""
    limit: int | None = opt(None, affects="evaluate", ge=1)
    """The first so many held-out rows, each asked about twice."""


@dataclass(kw_only=True)
class Eval(Section):
    """Measurements on the held-out rows; loss and perplexity always, the named metrics on generated answers."""

    enabled: bool = opt(True, affects="evaluate")
    """Whether anything is measured after training."""
    generate: bool = opt(True, affects="baseline evaluate")
    """Generate answers (greedily, with the serving path) and score them, not the loss alone."""
    metrics: list[str] = opt(factory=lambda: ["exact_match"], affects="baseline evaluate")
    """Scores of a generated answer: `exact_match`, `f1`, `numeric`, `regex`, `json` (validity and one accuracy a field), `json_schema`,
    `bleu`, `chrf`, `rouge` (1, 2, L), `tool_calls` (valid, and the same), or a `@metric` of your own."""
    pattern: str | None = opt(None, affects="baseline evaluate")
    """What the metric `regex` looks for: a regular expression, searched for in the answer."""
    json_schema: dict[str, Any] = opt(factory=dict, affects="baseline evaluate")
    """What the metric `json_schema` asks of an answer."""
    max_new_tokens: int = opt(256, affects="baseline evaluate", ge=1)
    """Longest generated answer, in tokens."""
    num_samples: int = opt(1, affects="baseline evaluate", ge=1)
    """Answers to each row, sampled at `eval.temperature`: scores are their mean, and `exact_match@4` is whether any of 4 is right."""
    temperature: float = opt(0.0, affects="baseline evaluate", ge=0)
    """How freely answers are sampled; 0 is greedy."""
    top_p: float = opt(1.0, affects="baseline evaluate", gt=0, le=1)
    """Sample among the likeliest tokens that together have this share."""
    batch_size: int = opt(32, ge=1)
    """Rows generated at once."""
    limit: int | None = opt(None, affects="baseline evaluate", ge=1)
    """Measure the first so many held-out rows."""
    general: str | None = opt(None, content="baseline")
    """Texts of other things than are trained, whose loss (`general_loss`) tells what is forgotten: a file, a glob or a folder, as
    `data.path`; `general.jsonl` is a small set of ours."""
    judge: Judge | None = opt(None)
    """Who chooses between the answers of base and tuned, shown in both orders: `judge_win_rate`. Off by default; rows are sent there."""
    lm_eval: LmEval | None = opt(None)
    """Benchmarks: `{tasks: [arc_easy, ./sums.yaml], limit: 200}`; each gives `task/metric`."""
    gate: list[str] = opt(factory=list)
    """Rules that the result must meet, else nothing is published and the run ends with code 3: `exact_match > base + 0.05`,
    `loss < 1.2`, `f1 is better` (by its interval), `loss is not worse`."""
    bootstrap_samples: int = opt(1000, affects="evaluate", ge=100)
    """Resamples behind the confidence interval of tuned minus base."""
    examples: int = opt(10, ge=0)
    """Example outputs shown in the report."""
