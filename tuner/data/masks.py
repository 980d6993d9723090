"""Which characters of a rendered conversation the assistant wrote: `Masker(tokenizer).turns(messages, text)` -> `{2: (61, 80)}`.

A template may strip, rewrite or drop what it is given, so nothing is guessed from the text alone. Three ways, the first that holds:

1. templates with `{% generation %}` say it themselves;
2. the conversation is rendered again with a sentinel in place of every message: what stands between the sentinels is the template's own
   glue, and the real text must be glue, message, glue, … to its last character (glue is kept by the sequence of roles, so most
   conversations are rendered once);
3. turn i is what rendering up to and including it adds to rendering up to its generation prompt.

A turn begins after the generation prompt and ends with the end-of-turn mark, which belongs to it (a model that never sees it trained
never stops); white space that the template puts after it does not.
"""

from __future__ import annotations

import contextlib
import re
from functools import cached_property
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tuner.data.probes import SENTINEL, Message, in_parts, place, rendered, structure, texts, with_sentinel, with_text_arguments
from tuner.errors import TuneError

Span = tuple[int, int]
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_FIX = "use `task.loss_on=all`, or a `model.chat_template` with {% generation %} around what the assistant writes"
MOST_STRUCTURES = 4096  # kept glue, by sequence of roles


class Masker:
    """Renders with one tokenizer's template, and finds the assistant's turns in what it rendered. `options` go to the template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        self.tokenizer, self.options = tokenizer, options
        self._glue: dict[tuple[Any, ...], list[tuple[int, str]] | None] = {}

    def render(self, messages: list[Message], *, tools: list[Any] | None = None, prompt: bool = False) -> str:
        """The conversation as the template writes it; `prompt` appends what opens the assistant's turn.

        Raises TuneError (code 2) with the template's own words when it refuses the conversation (no system role, say).
        """
        shaped = [in_parts(m) for m in messages] if self.parts else messages
        try:
            return self._render(shaped, tools, prompt)
        except (TemplateError, TypeError, ValueError) as error:
            if any(m.get("tool_calls") for m in messages):  # some templates add a call's arguments to text
                with contextlib.suppress(TemplateError, TypeError, ValueError):
                    return self._render([with_text_arguments(m) for m in shaped], tools, prompt)
            roles = [m["role"] for m in messages]
            fix = "mend the roles, or set `model.chat_template`"
            raise TuneError(f"the chat template refuses a conversation of {roles}: {error}", "data", fix) from error

    def _render(self, messages: list[Message], tools: list[Any] | None, prompt: bool) -> str:
        return rendered(messages, tools, self.tokenizer, add_generation_prompt=prompt, **self.options)

    @cached_property
    def parts(self) -> bool:
        """Whether the template wants a message's text in parts (`[{"type": "text", …}]`), as those of many models that see images do."""
        said = {"role": "user", "content": "A question?"}
        with contextlib.suppress(TemplateError, TypeError, ValueError):
            if "A question?" in self._render([said], None, False):
                return False
        with contextlib.suppress(TemplateError, TypeError, ValueError):
            return "A question?" in self._render([in_parts(said)], None, False)
        return False

    @cached_property
    def knows_tools(self) -> bool:
        """Whether the template writes an assistant's tool calls."""
        call = {"type": "function", "function": {"name": "look_it_up", "arguments": {}}}
        said: list[Message] = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        with contextlib.suppress(TuneError):
            return "look_it_up" in self.render(said)
        return False

    @cached_property
    def prompt(self) -> str:
        """What the template writes to open an assistant's turn."""
        said = [{"role": "user", "content": "A question?"}]
        before, after = self.render(said), self.render(said, prompt=True)
        return after.removeprefix(before) if after.startswith(before) else after.partition("A question?")[2]

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The marks that end an assistant's turn: as the last of a conversation, and within one (gpt-oss writes another there)."""
        marker = "The answer."
        talk = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": marker}]
        last = self.render(talk).rpartition(marker)[2].strip()
        opening, _, within = self.render([*talk, {"role": "user", "content": "Another?"}]).partition(marker)
        within = within.partition("Another?")[0].lstrip()
        if last and last in within:
            return (last,)
        marks = {str(t) for t in self.tokenizer.added_tokens_encoder}.union(self.tokenizer.all_special_tokens)
        middle = max((m for m in marks if within.startswith(m)), key=len, default="")
        # It ends a turn where it ends the user's too; otherwise it opens the next one, which is the end where there is no other (GLM).
        closes = not last or opening.partition("A question?")[2].lstrip().startswith(middle)
        return tuple(m for m in (last, middle if closes else "") if m)

    @cached_property
    def opening(self) -> str:
        """As much of the generation prompt as stands before an assistant's text in a conversation (some prompts open its thoughts too)."""
        talk = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": "The answer."}]
        glue = self.render(talk).partition("A question?")[2].partition("The answer.")[0]
        return next((self.prompt[:n] for n in range(len(self.prompt), 0, -1) if self.prompt[:n] in glue), "")

    def turns(self, messages: list[Message], text: str, *, tools: list[Any] | None = None) -> dict[int, Span]:
        """Index of each assistant message -> its characters in `text`, the rendered conversation; absent where the template drops it.

        Raises TuneError (code 2) when the template writes so that no way of finding them holds.
        """
        if not any(m["role"] == "assistant" for m in messages):
            return {}
        if _GENERATION.search(str(self.tokenizer.chat_template)):
            return self._marked(messages, text, tools)
        found = self._by_glue(messages, text, tools)
        return found if found is not None else self._by_prefix(messages, text, tools)

    def _marked(self, messages: list[Message], text: str, tools: list[Any] | None) -> dict[int, Span]:
        """As the template's own generation blocks say, widened by an end-of-turn mark that follows."""
        extra = {**self.tokenizer.special_tokens_map, **self.options}
        _, found = cast(Any, render_jinja_template)(
            [messages], tools=tools, chat_template=str(self.tokenizer.chat_template), return_assistant_tokens_mask=True, **extra
        )
        spans = [(start, end) for start, end in found[0] if end > start]
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if len(spans) != len(turns):
            raise TuneError("the chat template's generation blocks do not match the assistant's turns", "model.chat_template", _FIX)
        return {i: (start, self._end(text, end, len(text))) for i, (start, end) in zip(turns, spans, strict=True)}

    def _end(self, text: str, end: int, limit: int) -> int:
        """`end`, moved behind an end-of-turn mark that stands right there (after white space) and before `limit`."""
        if text[:end].rstrip().endswith(self.ends):
            return len(text[:end].rstrip())
        behind = end + len(text[end:limit]) - len(text[end:limit].lstrip())
        mark = next((m for m in self.ends if text.startswith(m, behind) and behind + len(m) <= limit), None)
        return behind + len(mark) if mark else end

    def _by_glue(self, messages: list[Message], text: str, tools: list[Any] | None) -> dict[int, Span] | None:
        """The second way; None when it does not hold."""
        key = structure(messages, tools)
        for fresh in (False, True):  # kept glue first; it may not fit where a template looks into the messages
            if key is None or fresh or key not in self._glue:
                glue = self._glue_of(messages, tools)
                if key is not None and len(self._glue) < MOST_STRUCTURES:
                    self._glue[key] = glue
                fresh = True
            else:
                glue = self._glue[key]
            placed = place(text, messages, glue) if glue is not None else None
            if placed is not None:
                return self._spans(messages, text, tools, placed)
            if fresh:
                return None
        return None

    def _glue_of(self, messages: list[Message], tools: list[Any] | None) -> list[tuple[int, str]] | None:
        """[(index of a message, what stands before it)], then (-1, what stands after the last); None when a sentinel is lost."""
        probe = [with_sentinel(m, i) for i, m in enumerate(messages)]
        try:
            text = self.render(probe, tools=tools)
        except TuneError:
            return None
        marks: dict[int, tuple[int, int]] = {}
        for mark in SENTINEL.finditer(text):
            marks.setdefault(int(mark.group(1)), mark.span())
        if lost := [m for i, m in enumerate(messages) if i not in marks]:
            if calls := next((m["tool_calls"] for m in lost if m.get("tool_calls") and not m.get("content")), None):
                what = f"the chat template writes no tool calls, so this one cannot be learned: {str(calls)[:120]}"
                raise TuneError(what, "model.chat_template", "use a model whose template knows tools, or set `model.chat_template`")
            return None
        order = sorted(marks, key=lambda i: marks[i])
        starts = [0, *(marks[i][1] for i in order)]
        ends = [*(marks[i][0] for i in order), len(text)]
        # Where a template repeats a text (the tool's name before its answer), the glue holds it as it is.
        pieces = [SENTINEL.sub(lambda m: next(texts(messages[int(m.group(1))])), text[a:b]) for a, b in zip(starts, ends, strict=True)]
        return list(zip([*order, -1], pieces, strict=True))

    def _spans(
        self, messages: list[Message], text: str, tools: list[Any] | None, placed: list[tuple[int, int, int, int]]
    ) -> dict[int, Span]:
        """From where each message stands to what the assistant is to learn: from its generation prompt to its end-of-turn mark."""
        found = {}
        for order, (index, glue_start, start, end) in enumerate(placed):
            if messages[index]["role"] != "assistant":
                continue
            opened = text.find(self.opening, glue_start, start) if self.opening else -1
            limit = placed[order + 1][2] if order + 1 < len(placed) else len(text)
            stops = [(at, -len(m)) for m in self.ends if (at := text.find(m, end, limit)) >= 0]
            if stops:
                end = min(stops)[0] - min(stops)[1]
            elif messages[index].get("tool_calls"):  # another mark ends a call (gpt-oss), or none does
                until = self.render(messages[: index + 1], tools=tools).rstrip()
                end = len(until) if text.startswith(until) else end
            # Without an opening the answer's first token may begin with the space before it.
            begins = opened + len(self.opening) if opened >= 0 else glue_start + len(text[glue_start:start].rstrip())
            found[index] = (begins, end)
        return found

    def _by_prefix(self, messages: list[Message], text: str, tools: list[Any] | None) -> dict[int, Span]:
        """The third way."""
        found = {}
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            end = self.render(messages[: index + 1], tools=tools)
            if index:
                start = self.render(messages[:index], tools=tools, prompt=True)
            else:
                start = end[: end.index(self.opening) + len(self.opening)] if self.opening and self.opening in end else ""
            if not (text.startswith(end.rstrip()) and end.startswith(start)):
                raise TuneError(
                    "the chat template rewrites earlier turns, so the assistant's text cannot be told apart", "model.chat_template", _FIX
                )
            found[index] = (len(start), len(end.rstrip()))
        return found
