"""`tune try` of a reward model: `ask(plan, "Who wrote Faust?", answer="Goethe.")` prints what the answer is worth."""

from __future__ import annotations

import json

import torch

from tuner.data.pairs import coded
from tuner.errors import TuneError
from tuner.plan import Plan
from tuner.render import out
from tuner.serve.labels import tuned_of

SETTINGS = ("answer",)


@torch.inference_mode()
def ask(plan: Plan, prompt: str, *, answer: str = "", as_json: bool = False) -> None:
    """One answer to a prompt, laid out as in training, and its number. Raises TuneError (code 2) where there is no answer."""
    if not answer.strip():
        raise _lacking(plan)
    (model, tokenizer), recipe = tuned_of(plan), plan.load_recipe()
    system = [{"role": "system", "content": recipe.data.system}] if recipe.data.system else []
    said = [{"role": "assistant", "content": answer}]
    example = {"prompt": [*system, {"role": "user", "content": prompt}], "chosen": said, "rejected": said, "tools": None}
    ((row, _),) = coded([example], tokenizer, recipe.task.max_length)
    reward = float(model(input_ids=torch.tensor([row.ids.tolist()], device=model.device)).logits[0, 0])
    if as_json:
        print(json.dumps({"reward": round(reward, 4)}))  # noqa: T201 for a program
    else:
        out.print(f"{reward:+.3f}  {answer}", markup=False, highlight=False)


def converse(plan: Plan, *, answer: str = "") -> None:
    """A reward is of a prompt with an answer: both are said at once."""
    raise _lacking(plan)


def _lacking(plan: Plan) -> TuneError:
    return TuneError(
        "a reward is of an answer to a prompt, and one of the two is missing",
        "answer=",
        f'`tune try {plan.name} "Who wrote Faust?" answer="Goethe."`',
    )
