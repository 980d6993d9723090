"""Texts filled in by a form: what the template itself would write, and forms only where the template's syntax proves it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.test_masks import templates, tokenizer_of
from tests.lab import tiny_tokenizer
from tuner.data.chat import CHATML
from tuner.data.forms import Forms, is_form
from tuner.data.masks import Masker
from tuner.data.probes import Message

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe good<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SLICED = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content ~ '\n' }}{% endif %}{% for m in messages[1:] %}"
    "{% if m.tool_calls %}?{% endif %}[{{ m.role }}/{{ messages | length }}]{{ m.content }}{{ eos_token }}{% endfor %}"
)
LOOP = "{% for m in messages %}<{{ m.role }}>BODY</s>{% endfor %}"
FORMS = {"chatml": CHATML, "smollm2": SMOLLM2, "sliced": SLICED, "plain": LOOP.replace("BODY", "{{ m.content }}")}
BODY = st.one_of(st.text(max_size=12), st.sampled_from(["", " a ", "<|im_end|>", "<|im_start|>assistant\n", "QqS1EqQ", "</s>", "\n"]))
TALK = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), BODY), min_size=1, max_size=5)


def talk(said: list[tuple[str, str]], system: str | None) -> list[Message]:
    first = [{"role": "system", "content": system}] if system is not None else []
    return [*first, *({"role": role, "content": body} for role, body in said)]


@pytest.mark.parametrize("name", FORMS)
@settings(max_examples=150, deadline=None)
@given(said=TALK, system=st.none() | BODY)
def test_a_form_says_what_the_template_says(name: str, said: list[tuple[str, str]], system: str | None) -> None:
    messages = talk(said, system)
    masker = Masker(tokenizer_of(FORMS[name]))
    form = Forms(masker).of(messages, None)
    if form is None:  # SLICED drops a first message that is not the system's
        assert name == "sliced"
        assert system is None
        return
    text, turns = form.fill(messages)
    assert text == masker.render(messages)
    assert turns == masker.turns(messages, text)


@pytest.mark.parametrize("path", templates(), ids=lambda p: Path(p).stem)
def test_a_family_s_form_says_what_its_template_says(path: str) -> None:
    template = Path(path).read_text(encoding="utf-8")
    masker = Masker(tokenizer_of(template))
    messages = talk([("user", " a "), ("assistant", "\nb</think> "), ("user", "c"), ("assistant", " d\n")], None)
    messages[1]["content"] = "\nb "
    form = Forms(masker).of(messages, None)
    assert (form is None) or form.fill(messages)[0] == masker.render(messages)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content | trim }}",
        "{{ m.content[:3] }}",
        "{{ m.content.strip() }}",
        "{{ m.get('content') }}",
        "{% if m.content %}{{ m.content }}{% endif %}",
        "{{ m.content if m.role == 'user' else '' }}",
        "{{ (m.role + m.content) | upper }}",
        "{% set c = m.content %}{{ c }}",
        "{% set c %}{{ m.content }}{% endset %}{{ c | trim }}",
        "{% filter upper %}{{ m.content }}{% endfilter %}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
        "{{ m }}",
        "{{ m.content }}{{ messages | last }}",
        "{{ m.content }}{{ messages[loop.index0].content | length }}",
        "{{ m.content }}{{ loop.previtem }}",
        "{{ m.content }}{% set x = m %}",
        "{{ m.content }}{{ m | length }}",
        "{{ m.content }}{{ ['a', 'b'] | random }}",
        "{{ m[m.role] }}",
        "{% for k in m %}{{ k }}{% endfor %}",
        "{% for m in m.content %}{{ m }}{% endfor %}",
        "{% macro f(x) %}{{ x.content }}{% endmacro %}{{ f(m) }}",
        "{{ m.items() | list }}",
    ],
)
def test_a_template_that_looks_at_contents_has_no_form(body: str) -> None:
    assert not is_form(LOOP.replace("BODY", body))


def test_conversations_with_more_than_texts_are_rendered() -> None:
    forms = Forms(Masker(tiny_tokenizer()))
    said = talk([("user", "a"), ("assistant", "b")], None)
    assert forms.of(said, None) is not None
    assert forms.of(said, [{"type": "function"}]) is None
    assert forms.of([said[0], said[1] | {"reasoning_content": "hm"}], None) is None
    assert forms.of([said[0], said[1] | {"content": [{"type": "text", "text": "b"}]}], None) is None
