"""`tune try`: a model's answers in the terminal, streamed; base and tuned one after the other when the target is a run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TextIteratorStreamer

from tuner.data.chat import prompt_ids
from tuner.data.turns import Message
from tuner.model.adapt import attach
from tuner.model.generation import settings
from tuner.model.load import load_base, load_folder, load_tokenizer, pick_device
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.schema.adapter import Full
from tuner.schema.hardware import Hardware
from tuner.schema.model import Model, Source
from tuner.serve.trained import trained


class Voice:
    """Something that answers: a model, under a name."""

    def __init__(self, name: str, model: Any, tokenizer: PreTrainedTokenizerBase, *, adapter: bool | None = None) -> None:
        self.name, self.model, self.tokenizer, self.adapter = name, model, tokenizer, adapter

    def stream(self, messages: list[Message], *, max_new_tokens: int) -> Iterator[str]:
        """Pieces of the answer as they come, greedily, by the serving path."""
        # Without a template the model goes on with a text.
        prompt = prompt_ids(messages, self.tokenizer) if self.tokenizer.chat_template else self.tokenizer(messages[-1]["content"]).input_ids
        ids = torch.tensor([prompt], device=self.model.device)
        streamer = TextIteratorStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        config = settings(self.tokenizer, max_new_tokens=max_new_tokens)
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with torch.inference_mode(), self.model.disable_adapter() if self.adapter is False else contextlib.nullcontext():
                    self.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, streamer=streamer)
            except BaseException as error:  # handed to the thread that reads the stream
                failed.append(error)
                streamer.end()

        thread = Thread(target=work, daemon=True)
        thread.start()
        yield from streamer
        thread.join()
        if failed:
            raise failed[0]


def voices_of_model(model: Model, hardware: Hardware) -> list[Voice]:
    """A model before tuning."""
    tokenizer, _ = load_tokenizer(model, progress=out.print)
    return [Voice(model.id, load_base(model, pick_device(hardware), progress=out.print), tokenizer)]


def voices_of_run(plan: Plan) -> list[Voice]:
    """Base and tuned of a run; an adapter shares the base's weights. Raises TuneError (code 2) when nothing has been trained yet."""
    run = trained(plan)
    recipe, device = run.recipe, run.device
    tokenizer, _ = load_tokenizer(Model(id=plan.folder, source=Source.local), progress=out.print, chats=recipe.task.chats)
    base = load_base(recipe.model, device, progress=out.print)
    if isinstance(recipe.adapter, Full):
        return [Voice("base", base, tokenizer), Voice("tuned", load_folder(Path(plan.folder), recipe.model, device), tokenizer)]
    both = attach(base, Path(plan.folder))
    return [Voice("base", both, tokenizer, adapter=False), Voice("tuned", both, tokenizer, adapter=True)]


def system_of_run(plan: Plan) -> str | None:
    """The system message that all training rows shared, if they did."""
    found = read_json(Path(plan.folder) / "data.json").get("system")
    return str(found) if found else None


def ask(voices: list[Voice], message: str, *, system: str | None, max_new_tokens: int, as_json: bool = False) -> None:
    """One question, each voice's answer."""
    answers = {}
    for voice in voices:
        history = [{"role": "system", "content": system}] if system else []
        pieces = voice.stream([*history, {"role": "user", "content": message}], max_new_tokens=max_new_tokens)
        answers[voice.name] = "".join(pieces) if as_json else _show(voice, pieces, label=len(voices) > 1)
    if as_json:
        print(json.dumps(answers, ensure_ascii=False))  # noqa: T201 for a program


def converse(voices: list[Voice], *, system: str | None, max_new_tokens: int) -> None:
    """A conversation until an empty line, Ctrl-D or Ctrl-C; each voice keeps its own history."""
    out.print("type a message; an empty line ends")
    histories: dict[str, list[Message]] = {v.name: [{"role": "system", "content": system}] if system else [] for v in voices}
    while True:
        try:
            message = out.input("[bold]>[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not message:
            return
        for voice in voices:
            history = histories[voice.name]
            history.append({"role": "user", "content": message})
            text = _show(voice, voice.stream(history, max_new_tokens=max_new_tokens), label=len(voices) > 1)
            history.append({"role": "assistant", "content": text})


def _show(voice: Voice, pieces: Iterator[str], *, label: bool) -> str:
    if label:
        out.print(f"[bold]{voice.name:<6}[/] ", end="")
    text = ""
    for piece in pieces:
        out.print(piece, end="", markup=False)
        text += piece
    out.print()
    return text.strip()
