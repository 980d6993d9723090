"""Loss masks: what is trained is the assistant's text with its end of turn, and nothing else; and the audit that proves it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.lab import tiny_model, tiny_tokenizer
from tuner.data.audit import MOST_BARS, audit, gate, histogram, segments, statistics
from tuner.data.chat import CHATML, TokenRow, answer_of, end_of_turn, ensure_template, prompt_ids, tokenize
from tuner.data.masks import Masker
from tuner.data.turns import Message
from tuner.errors import TuneError
from tuner.schema.task import LossOn, Sft

END = "<|im_end|>"


def fresh(template: str | None = None) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(tiny_model()))
    if template:
        tokenizer.chat_template = template
    return tokenizer


def say(*turns: str) -> list[Message]:
    """`say("u: hi", "a: ho")`."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[t[0]], "content": t[3:]} for t in turns]


def talk(messages: list[Message]) -> dict[str, Any]:
    return {"messages": messages, "tools": None}


def render(messages: list[Message], tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False) -> str:
    return Masker(tokenizer).render(messages, prompt=prompt)


def row_of(messages: list[Message], tokenizer: PreTrainedTokenizerBase | None = None, **task: Any) -> TokenRow:
    (row,) = tokenize([talk(messages)], tokenizer or tiny_tokenizer(), Sft(**task))
    return row


def runs(row: TokenRow, tokenizer: PreTrainedTokenizerBase | None = None) -> list[str]:
    """The trained runs of text."""
    return [s["text"] for s in segments(row, tokenizer or tiny_tokenizer()) if s["trained"]]


# Any text but what the tokenizer takes for its own marks (that a user's text can hold them is the tokenizer's affair).
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=30).filter(lambda text: "<|im_" not in text)
CONVERSATION = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXT), min_size=1, max_size=7).map(
    lambda turns: [{"role": role, "content": text} for role, text in turns]
)


@settings(max_examples=200, deadline=None)
@given(CONVERSATION)
def test_trained_tokens_are_the_assistants_text_and_its_end_of_turn(messages: list[Message]) -> None:
    tokenizer = tiny_tokenizer()
    row = row_of(messages)
    assert tokenizer.decode(row.ids.tolist()) == render(messages, tokenizer), "no token is lost or added"
    assert runs(row) == [m["content"] + END for m in messages if m["role"] == "assistant"]
    assert not row.truncated


@settings(max_examples=60, deadline=None)
@given(CONVERSATION, st.integers(8, 120))
def test_a_cut_row_is_the_beginning_of_the_whole_one(messages: list[Message], length: int) -> None:
    whole, cut = row_of(messages), row_of(messages, max_length=length)
    assert len(cut.ids) == min(length, len(whole.ids))
    assert cut.truncated == (len(whole.ids) > length)
    assert np.array_equal(cut.ids, whole.ids[:length])
    assert np.array_equal(cut.trained, whole.trained[:length])


@settings(max_examples=60, deadline=None)
@given(CONVERSATION)
def test_the_sample_joins_to_the_text(messages: list[Message]) -> None:
    tokenizer = tiny_tokenizer()
    for loss_on in LossOn:
        row = row_of(messages, loss_on=loss_on)
        found = segments(row, tokenizer)
        assert "".join(s["text"] for s in found) == render(messages, tokenizer)
        assert all(a["trained"] != b["trained"] for a, b in pairwise(found))


TALK = say("s: be brief", "u: one?", "a: 1", "u: two?", "a: 2")


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        (LossOn.assistant, ["1" + END, "2" + END]),
        (LossOn.last_assistant, ["2" + END]),
    ],
)
def test_which_turns_are_trained(loss_on: LossOn, expected: list[str]) -> None:
    assert runs(row_of(TALK, loss_on=loss_on)) == expected


def test_everything_can_be_trained() -> None:
    row = row_of(TALK, loss_on=LossOn.all)
    assert row.trained.all()
    assert runs(row) == [render(TALK, tiny_tokenizer())]


def test_the_last_assistant_turn_need_not_be_the_last_turn() -> None:
    assert runs(row_of(say("u: a", "a: b", "u: c", "a: d", "u: e"), loss_on=LossOn.last_assistant)) == ["d" + END]


def test_batches_do_not_mix_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.chat.BATCH", 3)
    talks = [say(f"u: {i}?", f"a: {'x' * i}") for i in range(8)]
    done: list[int] = []
    assert [runs(r) for r in tokenize(map(talk, talks), tiny_tokenizer(), Sft(), tick=done.append)] == [["x" * i + END] for i in range(8)]
    assert done == [3, 6, 8]


def test_the_prompt_of_serving_is_the_untrained_beginning() -> None:
    row = row_of(TALK, loss_on=LossOn.last_assistant)
    untrained = row.ids[: int(np.argmax(row.trained))].tolist()
    assert prompt_ids(TALK[:-1], tiny_tokenizer()) == untrained


LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' </s>' }}{% endif %}{% endfor %}"
)


def test_a_template_without_generation_prompt_and_a_textual_end() -> None:
    tokenizer = fresh(LLAMA2)
    assert end_of_turn(tokenizer) == "</s>"
    row = row_of(say("u: q", "a: yes", "u: r", "a: no"), tokenizer)
    assert runs(row, tokenizer) == [" yes </s>", " no </s>"]
    assert audit([row], tokenizer, end_of_turn="</s>")["end_of_turn_trained"]


FORGETS = (  # as reasoning templates do: only the last answer keeps its thoughts
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_forgets_thoughts_trains_what_it_writes() -> None:
    tokenizer = fresh(FORGETS)
    said = say("u: q", "a: <think>hm</think>yes", "u: r", "a: <think>oh</think>no")
    assert runs(row_of(said, tokenizer), tokenizer) == ["yes" + END, "<think>oh</think>no" + END]
    assert runs(row_of(said, tokenizer, loss_on=LossOn.last_assistant), tokenizer) == ["<think>oh</think>no" + END]
    assert runs(row_of(said[:2], tokenizer), tokenizer) == ["<think>hm</think>yes" + END], "one turn has no history to rewrite"


SHUFFLES = "{% for m in messages %}{{ '<|im_start|>' + m['content'][::-1] }}{% endfor %}<|im_end|>"


def test_a_template_in_which_no_turn_can_be_told_apart_is_refused() -> None:
    with pytest.raises(TuneError, match="rewrites earlier turns") as caught:
        row_of(TALK, fresh(SHUFFLES))
    assert caught.value.code == 2
    assert "task.loss_on=all" in caught.value.problems[0].fix
    assert runs(row_of(TALK, fresh(SHUFFLES), loss_on=LossOn.all), fresh(SHUFFLES))


def test_a_message_can_be_left_untrained() -> None:
    said = say("u: one?", "a: 1", "u: two?", "a: 2")
    assert runs(row_of([said[0], said[1] | {"train": False}, *said[2:]])) == ["2" + END]


def test_completion_is_what_answers_the_prompt() -> None:
    said = say("u: one?", "a: 1", "u: two?", "a: 2", "u: three?", "a: 3")
    (row,) = tokenize([talk(said) | {"answers_from": 3}], tiny_tokenizer(), Sft(loss_on=LossOn.completion))
    assert runs(row) == ["2" + END, "3" + END]
    assert runs(row_of(said, loss_on=LossOn.completion)) == ["3" + END]


REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML


def test_a_template_that_refuses_a_role_is_told_in_its_own_words() -> None:
    tokenizer = fresh(REFUSES)
    assert runs(row_of(TALK[1:], tokenizer), tokenizer) == ["1" + END, "2" + END]
    with pytest.raises(TuneError, match="System role not supported") as caught:
        row_of(TALK, tokenizer)
    assert "['system', 'user', 'assistant', 'user', 'assistant']" in caught.value.problems[0].what
    assert caught.value.code == 2


@pytest.mark.parametrize("template", ["{% for m in %}", "{{ messages.nope.no }}", "{{ messages[0]['content'] + 1 }}"])
def test_a_broken_template_is_no_bug_of_ours(template: str) -> None:
    with pytest.raises(TuneError, match="chat template"):
        row_of(TALK, fresh(template))


def test_no_template_means_chatml() -> None:
    tokenizer = fresh()
    tokenizer.chat_template = None
    assert ensure_template(tokenizer, None) == "ChatML (the model has none)"
    assert render(say("u: q"), tokenizer, prompt=True) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    assert ensure_template(tokenizer, None) == "model"
    assert ensure_template(tokenizer, LLAMA2) == "recipe"
    assert render(say("u: q"), tokenizer) == "[INST] q [/INST]"


def audited(talks: list[list[Message]], tokenizer: PreTrainedTokenizerBase | None = None, **task: Any) -> dict[str, Any]:
    tokenizer = tokenizer or tiny_tokenizer()
    return audit(list(tokenize(map(talk, talks), tokenizer, Sft(**task))), tokenizer, end_of_turn=end_of_turn(tokenizer))


def gated(found: dict[str, Any], *, max_length: int = 1024) -> str:
    with pytest.raises(TuneError) as caught:
        gate(found, max_length=max_length)
    assert caught.value.code == 3
    return " / ".join(f"{p.what} ({p.fix})" for p in caught.value.problems)


def test_audit_counts() -> None:
    found = audited([say("u: hello", "a: ok"), say("u: no answer"), say("u: x", "a: " + "y" * 200)], max_length=100)
    assert (found["rows"], found["rows_fully_masked"], found["rows_truncated"]) == (3, 1, 1)
    assert found["end_of_turn"] == END
    assert found["end_of_turn_trained"] is True
    # user\n + text + end + \n + assistant\n + text + end + \n, one token a byte and one a mark
    first = (1 + 5 + 5 + 1 + 1) + (1 + 10 + 2 + 1 + 1)
    second = 1 + 5 + 9 + 1 + 1
    assert found["tokens"] == first + second + 100
    cut_answer = 100 - ((1 + 5 + 1 + 1 + 1) + (1 + 10))
    assert found["supervised_tokens"] == 3 + cut_answer
    assert found["share"] == pytest.approx((3 + cut_answer) / (first + second + 100))
    assert [s["text"] for s in found["sample"] if s["trained"]] == ["ok" + END]
    gate(found, max_length=100)


def test_nothing_trained_stops_the_run() -> None:
    said = gated(audited([say("u: only questions"), say("s: a", "u: b")]))
    assert "no token of 2 rows would be trained" in said
    assert "data.columns" in said
    assert "max_length" not in said
    assert "task.max_length` (8)" in gated(audited([say("u: long question", "a: x")] * 2, max_length=8), max_length=8)


def test_an_end_of_turn_that_is_never_trained_stops_the_run() -> None:
    found = audited([say("u: q", "a: " + "y" * 90)] * 2 + [say("u: short")], max_length=60)
    assert found["supervised_tokens"] > 0
    assert found["end_of_turn_trained"] is False
    said = gated(found, max_length=60)
    assert "the end of turn (<|im_end|>) is never trained" in said
    assert "raise `task.max_length`" in said


def test_a_template_without_end_of_turn_stops_the_run() -> None:
    tokenizer = fresh("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}")
    gate(audited([say("u: q", "a: yes")], tokenizer), max_length=1024)
    tokenizer.eos_token = None  # nothing to stop at is left
    said = gated(audited([say("u: q", "a: yes")], tokenizer))
    assert "the end of turn (none in the template) is never trained" in said


def test_a_textual_end_of_turn_that_is_cut_counts_as_untrained() -> None:
    """Its letters occur in the answers; the end itself does not."""
    tokenizer = fresh(LLAMA2)
    found = audited([say("u: q", "a: class </ss s > and so on")] * 2, tokenizer, max_length=40)
    assert found["rows_truncated"] == 2
    assert found["end_of_turn_trained"] is False


def test_an_early_turn_trains_the_end_though_the_last_is_cut() -> None:
    talk = say("u: q", "a: ok", "u: r", "a: " + "y" * 200)
    found = audited([talk, say("u: q", "a: " + "z" * 10)], max_length=80)
    assert found["end_of_turn_trained"] is True
    gate(found, max_length=80)


def test_everything_cut_stops_the_run() -> None:
    said = gated(audited([say("u: q", "a: ok", "u: r", "a: " + "y" * 200)] * 3, max_length=90), max_length=90)
    assert "all 3 rows are longer than task.max_length and cut" in said
    assert "now 90 tokens" in said


def test_statistics() -> None:
    rows = [TokenRow(ids=np.zeros(n, dtype=np.int32), trained=np.arange(n) % 2 == 0, truncated=False) for n in (10, 32, 33, 300, 10_000)]
    found = statistics(rows)
    assert (found["rows"], found["tokens"], found["supervised_tokens"]) == (5, 10_375, 5188)
    assert found["length"] == {"min": 10, "mean": 2075.0, "p50": 33, "p95": 8059, "max": 10_000}
    assert found["histogram"] == [[1000, 4], *([bound, 0] for bound in range(2000, 10_000, 1000)), [10_000, 1]]


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=50))
def test_every_length_is_in_one_bar(lengths: list[int]) -> None:
    bars = histogram(np.asarray(lengths))
    assert sum(count for _, count in bars) == len(lengths)
    assert len(bars) <= MOST_BARS
    assert max(lengths) <= bars[-1][0]
    assert bars[0][1] > 0, "the axis begins where the rows do"
    assert bars[-1][1] > 0, "and ends where they end"


def test_tools_are_written_as_text_where_the_template_knows_none() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Ulm"}}}
    said = [
        *say("s: be brief", "u: weather?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        *say("t: sunny", "a: it is sunny"),
    ]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    tokenizer = tiny_tokenizer()
    (row,) = tokenize([{"messages": said, "tools": tools}], tokenizer, Sft())
    written = '<tool_call>\n{"name": "weather", "arguments": {"city": "Ulm"}}\n</tool_call>'
    assert runs(row) == [written + END, "it is sunny" + END]
    text = tokenizer.decode(row.ids.tolist())
    assert text.startswith("<|im_start|>system\nbe brief\n\n")
    assert json.dumps(tools[0]) in text
    assert "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>" in text
    without_system = {"messages": said[1:], "tools": tools}
    (row,) = tokenize([without_system | {"messages": [said[1], said[2] | {"train": False}, *said[3:]]}], tokenizer, Sft())
    assert runs(row) == ["it is sunny" + END], "the flag stays with its message though a system message is put in front"
    assert answer_of({"messages": said[:3], "tools": tools}, tokenizer) == written
    assert tokenizer.decode(prompt_ids(said[:2], tokenizer, tools=tools)).endswith("weather?<|im_end|>\n<|im_start|>assistant\n")


def test_a_long_row_in_pieces_loses_nothing_and_ends_with_its_end_of_turn() -> None:
    said = say("u: q", "a: " + "y" * 200)
    whole = row_of(said)
    pieces = list(tokenize([talk(said)], tiny_tokenizer(), Sft(max_length=60), pieces=True))
    assert [len(p.ids) for p in pieces] == [60, 60, 60, len(whole.ids) - 180]
    assert [p.piece for p in pieces] == [0, 1, 2, 3]
    assert np.array_equal(np.concatenate([p.ids for p in pieces]), whole.ids)
    assert np.array_equal(np.concatenate([p.trained for p in pieces]), whole.trained)
    assert runs(pieces[-1])[-1].endswith(END)
    assert not any(p.truncated for p in pieces)
