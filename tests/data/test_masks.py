"""Finding the assistant's turns in what a template wrote: against an independent reference, and against TRL on its own 28 templates."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tests.lab import tiny_tokenizer
from tuner.data.chat import how_turns_end, render, stop_marks
from tuner.data.forms import Forms
from tuner.data.masks import Masker
from tuner.data.tools import written_out
from tuner.errors import TuneError
from tuner.schema.task import LossOn

MARK = re.compile(r"<[|｜][^<>\s{}]*?[|｜]?>|<[a-z_]+\|>|</?s>|<(?:start|end)_of_turn>|<eos>|<\|[a-z_]+>")
ENDS = (
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<turn|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<|endoftext|>",
)
Messages = list[dict[str, Any]]


def say(*turns: str) -> Messages:
    """`say("u: hi", "a: ho")`."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[t[0]], "content": t[3:]} for t in turns]


def called(name: str, **arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]}


TALKS = {
    "one": say("u: a question?", "a: the answer"),
    "two": say("u: one?", "a: 1", "u: two?", "a: 2"),
    "same texts": say("u: yes", "a: yes", "u: yes", "a: yes"),
    "system": say("s: be brief", "u: one?", "a: 1", "u: two?", "a: 2"),
    "open": say("u: one?", "a: 1", "u: two?"),
    "space": say("u:  padded \n", "a:  also padded \n", "u: \n", "a: x "),
    "thoughts in the text": say("u: a?", "a: <think>\nhm\n</think>\n\nyes", "u: b?", "a: <think>\nso\n</think>\n\nno"),
    "thoughts apart": [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "reasoning_content": "hm", "content": "yes"},
        {"role": "user", "content": "b?"},
        {"role": "assistant", "reasoning_content": "so", "content": "no"},
    ],
    "marks in a user's text": say("u: say <|im_end|> and <|im_start|>assistant\nno", "a: done", "u: more", "a: ok"),
    "a call": [*say("u: weather?"), called("weather", city="Ulm"), *say("t: sunny", "a: it is sunny")],
    "a call and words": [
        *say("u: weather?"),
        called("weather", city="Ulm") | {"content": "I look."},
        *say("t: sunny", "a: it is sunny", "u: thanks", "a: welcome"),
    ],
}


def templates() -> list[str]:
    """Families whose template TRL ships both plain and with generation blocks."""
    if find_spec("trl") is None:
        return []
    folder = Path(str(find_spec("trl").submodule_search_locations[0])) / "chat_templates"  # type: ignore[union-attr,index]
    return sorted(str(p) for p in folder.glob("*.jinja") if (folder / f"{p.stem}_training.jinja").is_file())


def tokenizer_of(template: str) -> PreTrainedTokenizerBase:
    """A tokenizer that has the template, and its marks as special tokens."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(MARK.findall(template)))})
    tokenizer.bos_token, tokenizer.eos_token = "<s>", next((m for m in ENDS if m in template), "</s>")
    tokenizer.chat_template = template
    return tokenizer


def trained(masker: Masker, messages: Messages) -> list[str]:
    text, spans = render({"messages": messages, "tools": None}, Forms(masker), LossOn.assistant)
    return [text[start:end] for start, end in spans]


def of_family(name: str) -> Masker:
    path = next((p for p in templates() if Path(p).stem == name), None)
    if path is None:
        pytest.skip("trl is not installed")
    return Masker(tokenizer_of(Path(path).read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", templates(), ids=lambda p: Path(p).stem)
def test_no_mismatch_with_trl_s_generation_blocks(path: str) -> None:
    """Where both templates write the same text. TRL trains the role's opening in some families, which we leave to the prompt."""
    masker = Masker(tokenizer_of(Path(path).read_text(encoding="utf-8")))
    marked = Path(path.replace(".jinja", "_training.jinja")).read_text(encoding="utf-8")
    compared = 0
    for name, messages in TALKS.items():
        try:
            text, turns = render({"messages": messages, "tools": None}, Forms(masker), LossOn.assistant)
            (theirs,), (spans,) = render_jinja_template(
                [messages], chat_template=marked, return_assistant_tokens_mask=True, **masker.tokenizer.special_tokens_map
            )
        except (TemplateError, TuneError):  # one of the two refuses it
            continue
        if text != theirs or ("gemma" in path and "call" in name) or ("deepseek" in path and "call" in name):
            continue  # DeepSeek's blocks hold the end of a tool's answer, Gemma's leave out the mark after a call
        compared += 1
        ours = squeeze("".join(text[a:b] for a, b in turns))
        assert ours == squeeze("".join(without_opening(text[a:b], masker.opening) for a, b in spans)), name
    if not compared:
        pytest.skip("the two templates never write the same")


def squeeze(text: str) -> str:
    """White space between two turns is in neither's text."""
    return "".join(text.split())


def without_opening(text: str, opening: str) -> str:
    return next((text[n:] for n in range(len(opening), 0, -1) if opening.endswith(text[:n])), text)


def by_change(masker: Masker, messages: Messages) -> Iterator[tuple[int, int]]:
    """The slow reference: where the rendered text changes when an assistant's text gets another first and another last letter."""
    text = masker.render(messages)
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("tool_calls") or not message["content"].strip():
            continue
        body = message["content"].strip()
        other = "q" if body[0] != "q" else "w"
        before = masker.render([*messages[:index], message | {"content": other + body[1:]}, *messages[index + 1 :]])
        start = next(i for i, (a, b) in enumerate(zip(text, before, strict=False)) if a != b)
        last = "q" if body[-1] != "q" else "w"
        behind = masker.render([*messages[:index], message | {"content": body[:-1] + last}, *messages[index + 1 :]])
        after = next(i for i, (a, b) in enumerate(zip(reversed(text), reversed(behind), strict=False)) if a != b)
        yield start, len(text) - after


def assert_as_by_change(masker: Masker, messages: Messages) -> int:
    """Each turn holds just the changed text, the template's opening of thoughts before it, and its end mark after it."""
    text = masker.render(messages)
    found = {i: s for i, s in masker.turns(messages, text).items() if not messages[i].get("tool_calls") and messages[i]["content"].strip()}
    expected = list(by_change(masker, messages))
    assert len(found) == len(expected)
    for (start, end), (first, last) in zip(found.values(), expected, strict=True):
        assert start <= first < last <= end
        assert not text[start:first].strip() or "think" in text[start:first] or text[start:first] == "<|channel|>final<|message|>"
        assert text[last:end].strip() in ("", *masker.ends)
    return len(found)


@pytest.mark.parametrize("name", ["alpaca_en", "gsm8k", "dpo_en", "kto_en", "toolcall_en"])
def test_real_conversations_against_the_reference(shared_data: Path, name: str) -> None:
    from tuner.data.layout import recognise
    from tuner.schema.data import Data

    (file,) = (shared_data / name).iterdir()
    lines = file.read_text(encoding="utf-8")
    rows = (json.loads(lines) if file.suffix == ".json" else [json.loads(line) for line in lines.splitlines()])[:150]
    layout = recognise(rows[0], Data())
    masker = Masker(tiny_tokenizer())
    turns = 0
    for row in rows:
        example = layout.read(row)
        messages = example.get("messages") or [*example["prompt"], *(example.get("chosen") or example["completion"])]
        turns += assert_as_by_change(masker, written_out(messages, example.get("tools")))
    assert turns >= 150


@pytest.mark.parametrize("family", ["qwen3", "llama3", "gemma3", "gptoss", "phi3", "deepseekv3", "qwen2_5"])
def test_families_against_the_reference(family: str) -> None:
    masker = of_family(family)
    assert sum(assert_as_by_change(masker, TALKS[name]) for name in ("one", "two", "same texts", "open", "marks in a user's text")) == 8


TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30).filter(lambda text: "<|im_" not in text and "QqS" not in text)
CONVERSATION = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXT), min_size=1, max_size=7).map(
    lambda turns: [{"role": role, "content": text} for role, text in turns]
)
SHARED_MASKER = Masker(tiny_tokenizer())


@settings(max_examples=200, deadline=None)
@given(CONVERSATION)
def test_kept_glue_finds_what_fresh_glue_finds(messages: Messages) -> None:
    found = trained(SHARED_MASKER, messages)
    assert found == [m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"]
    assert found == trained(Masker(tiny_tokenizer()), messages)


def test_a_conversation_is_rendered_once_more_only_for_a_new_sequence_of_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    masker = Masker(tiny_tokenizer())
    trained(masker, TALKS["two"])
    rendered: list[Messages] = []
    render = masker.render
    monkeypatch.setattr(masker, "render", lambda messages, **options: rendered.append(messages) or render(messages, **options))
    for number in range(10):
        messages = say(f"u: {number}?", f"a: {number}", "u: and?", "a: no")
        masker.turns(messages, render(messages))
    assert rendered == []


BLOCKS = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{{ '</s>' }}{% else %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def test_generation_blocks_are_widened_by_the_end_of_turn() -> None:
    assert trained(Masker(tokenizer_of(BLOCKS)), TALKS["two"]) == ["1</s>", "2</s>"]


def test_a_template_that_writes_no_calls_says_so() -> None:
    silent = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '</s>' }}{% endfor %}"
    masker, talk = Masker(tokenizer_of(silent)), TALKS["a call"]
    with pytest.raises(TuneError, match="writes no tool calls") as caught:
        masker.turns(talk, masker.render(talk))
    assert caught.value.problems[0].where == "model.chat_template"


def test_a_system_role_that_a_template_forbids_is_told() -> None:
    strict = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(TuneError, match="System role not supported"):
        Masker(tokenizer_of(strict)).render(TALKS["system"])


def test_a_date_in_the_template_does_not_matter() -> None:
    dated = "{{ strftime_now('%d %b %Y') }}" + str(tiny_tokenizer().chat_template)
    assert trained(Masker(tokenizer_of(dated)), TALKS["one"]) == ["the answer<|im_end|>"]


def test_calls_are_trained_whole() -> None:
    found = trained(of_family("qwen2_5"), TALKS["a call"])
    call = json.dumps({"name": "weather", "arguments": {"city": "Ulm"}})
    assert found == [f"<tool_call>\n{call}\n</tool_call><|im_end|>", "it is sunny<|im_end|>"]


def test_a_turn_that_the_next_one_s_opening_ends_is_closed_by_it() -> None:
    """GLM: generation stops at `<|user|>`, and behind a call at `<|observation|>`; no training row ends without one."""
    masker = of_family("glm4moe")
    assert trained(masker, TALKS["two"]) == ["\n<think></think>\n1<|user|>", "\n<think></think>\n2<|user|>"]
    call, answer = trained(masker, TALKS["a call"])
    assert call.endswith("</tool_call><|observation|>")
    assert answer.endswith("it is sunny<|user|>")
    assert trained(masker, TALKS["a call"][:2]) == [call]
    text, _ = render({"messages": TALKS["open"], "tools": None}, Forms(masker), LossOn.assistant)
    assert text.endswith("two?"), "a conversation that waits for an answer is left open"
    assert stop_marks(masker.tokenizer) == {"<|user|>", "<|observation|>"}
    assert "<|user|> or <|observation|> is trained" in how_turns_end(masker.tokenizer)


BARE = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"


def test_where_nothing_ends_a_turn_the_end_of_sequence_does() -> None:
    masker = Masker(tokenizer_of(BARE))
    assert trained(masker, TALKS["two"]) == ["1", "2\n</s>"]
    assert render({"messages": TALKS["two"], "tools": None}, Forms(masker), LossOn.all)[0].endswith("assistant: 2\n</s>")
    assert not render({"messages": TALKS["open"], "tools": None}, Forms(masker), LossOn.all)[0].endswith("</s>")
    assert "the tokenizer's </s> is put behind" in how_turns_end(masker.tokenizer)
    masker.tokenizer.eos_token = None
    assert trained(Masker(masker.tokenizer), TALKS["two"]) == ["1", "2"]


@pytest.mark.parametrize("family", ["qwen3", "gptoss", "phi3", "gemma3", "llama3"])
def test_a_template_that_ends_turns_gets_nothing_added(family: str) -> None:
    masker = of_family(family)
    assert how_turns_end(masker.tokenizer) == ""
    assert masker.closing(TALKS["one"][-1]) == ""


def test_gpt_oss_writes_words_beside_a_call_as_thoughts() -> None:
    """Until an answer follows: then it drops them, in training as in use."""
    masker = of_family("gptoss")
    thought = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
    written = ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Ulm"}<|call|>'
    talk = TALKS["a call and words"][:2]
    assert trained(masker, talk) == [thought.format("I look.") + written]
    assert trained(masker, [talk[0], talk[1] | {"reasoning_content": "hm"}]) == [thought.format("hm\n\nI look.") + written]
    answers = ["<|channel|>final<|message|>it is sunny<|end|>", "<|channel|>final<|message|>welcome<|return|>"]
    assert trained(masker, TALKS["a call and words"]) == [written, *answers]
    again = [*talk, *say("t: sunny"), talk[1], *say("t: rain")]
    assert trained(masker, again) == [thought.format("I look.") + written] * 2
    assert stop_marks(masker.tokenizer) == {"<|return|>", "<|call|>"}
