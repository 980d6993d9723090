"""What a chat template writes, found by asking it: `Template(tokenizer).ends` -> `("<|im_end|>",)`, what ends an assistant's turn."""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tuner.data.probes import in_parts, rendered, with_text_arguments, with_words_as_thoughts
from tuner.data.turns import Message
from tuner.errors import TuneError

_REFUSALS = (TemplateError, TypeError, ValueError)
_ASKED: Message = {"role": "user", "content": "A question?"}
_ANSWERED: Message = {"role": "assistant", "content": "The answer."}
_CALL = {"type": "function", "function": {"name": "look_it_up", "arguments": {}}}
_CALLED: Message = {"role": "assistant", "content": "", "tool_calls": [_CALL]}


class Template:
    """A tokenizer's chat template. `options` go to it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        self.tokenizer, self.options = tokenizer, options

    def render(self, messages: list[Message], *, tools: list[Any] | None = None, prompt: bool = False) -> str:
        """The conversation as the template writes it; `prompt` appends what opens the assistant's turn.

        Raises TuneError (code 2) with the template's own words when it refuses the conversation (no system role, say).
        """
        shaped = [in_parts(m) for m in messages] if self.parts else messages
        try:
            return self._render(shaped, tools, prompt)
        except _REFUSALS as error:
            if any(m.get("tool_calls") for m in messages):
                # Some templates add a call's arguments to text; gpt-oss's has one place for the thoughts and the words before a call.
                for change in (with_text_arguments, with_words_as_thoughts):
                    with contextlib.suppress(*_REFUSALS):
                        return self._render([change(m) for m in shaped], tools, prompt)
            roles = [m["role"] for m in messages]
            fix = "mend the roles, or set `model.chat_template`"
            raise TuneError(f"the chat template refuses a conversation of {roles}: {error}", "data", fix) from error

    def _render(self, messages: list[Message], tools: list[Any] | None, prompt: bool) -> str:
        return rendered(messages, tools, self.tokenizer, add_generation_prompt=prompt, **self.options)

    @cached_property
    def parts(self) -> bool:
        """Whether the template wants a message's text in parts (`[{"type": "text", …}]`), as those of many models that see images do."""
        with contextlib.suppress(*_REFUSALS):
            if "A question?" in self._render([_ASKED], None, False):
                return False
        with contextlib.suppress(*_REFUSALS):
            return "A question?" in self._render([in_parts(_ASKED)], None, False)
        return False

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template writes an assistant's tool calls."""
        with contextlib.suppress(TuneError):
            return "look_it_up" in self.render([_ASKED, _CALLED])
        return False

    @cached_property
    def prompt(self) -> str:
        """What the template writes to open an assistant's turn."""
        before, after = self.render([_ASKED]), self.render([_ASKED], prompt=True)
        return after.removeprefix(before) if after.startswith(before) else after.partition("A question?")[2]

    @cached_property
    def opening(self) -> str:
        """As much of the generation prompt as stands before an assistant's text in a conversation (some prompts open its thoughts too)."""
        glue = self.render([_ASKED, _ANSWERED]).partition("A question?")[2].partition("The answer.")[0]
        return next((self.prompt[:n] for n in range(len(self.prompt), 0, -1) if self.prompt[:n] in glue), "")

    @cached_property
    def own_end(self) -> str:
        """What the template writes behind a last answer; nothing where the next turn's opening ends it (GLM), or nothing does."""
        return self.render([_ASKED, _ANSWERED]).rpartition("The answer.")[2].strip()

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The marks that end an assistant's turn: as the last of a conversation, and within one (gpt-oss writes another there)."""
        if not self.own_end:
            return tuple(dict.fromkeys(mark for m in (_ANSWERED, _CALLED) if (mark := self.closing(m))))
        opening, _, within = self.render([_ASKED, _ANSWERED, {"role": "user", "content": "Another?"}]).partition("The answer.")
        within = within.partition("Another?")[0].lstrip()
        middle = self._mark_of(within)
        if self.own_end in within or not opening.partition("A question?")[2].lstrip().startswith(middle):
            return (self.own_end,)  # what follows ends no user's turn, so it opens the next one
        return tuple(m for m in (self.own_end, middle) if m)

    @cached_property
    def call_end(self) -> str:
        """The mark behind a tool call that ends a conversation (gpt-oss: `<|call|>`)."""
        written = self.render([_ASKED, _CALLED]).rstrip() if self.knows_tools else ""
        return max((m for m in self._marks if written.endswith(m)), key=len, default="")

    def closing(self, message: Message) -> str:
        """What has to be put behind an assistant's message that is the last, so that the model learns to stop; "" where the template does.

        It is the mark that opens the turn of who speaks next, since generation stops there (GLM: `<|user|>`, behind a call
        `<|observation|>`), or else the tokenizer's end of sequence.
        """
        if self.own_end:
            return ""
        following = self._following_call if message.get("tool_calls") else ""
        return following or self._following_answer or str(self.tokenizer.eos_token or "")

    @cached_property
    def _following_answer(self) -> str:
        return self._following(_ANSWERED, "user")

    @cached_property
    def _following_call(self) -> str:
        return self._following(_CALLED, "tool")

    def _following(self, said: Message, role: str) -> str:
        """The mark that opens the turn of `role` behind this message."""
        with contextlib.suppress(TuneError):
            before, after = self.render([_ASKED, said]), self.render([_ASKED, said, {"role": role, "content": "Another?"}])
            return self._mark_of(after.removeprefix(before.rstrip()).lstrip()) if after.startswith(before.rstrip()) else ""
        return ""

    @cached_property
    def _marks(self) -> set[str]:
        return {str(t) for t in self.tokenizer.added_tokens_encoder}.union(self.tokenizer.all_special_tokens)

    def _mark_of(self, text: str) -> str:
        """The special token that a text begins with."""
        return max((m for m in self._marks if text.startswith(m)), key=len, default="")
