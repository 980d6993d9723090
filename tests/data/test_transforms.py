"""Every transform has a real effect: its name as a recipe writes it, rows in, rows out; and no transform is without such a case."""

# ruff: noqa: E501  (a case is a line: what goes in stands beside what comes out)
from __future__ import annotations

import time
from typing import Any

import pytest
import yaml

from tuner.data.load import Rows
from tuner.data.transform import apply
from tuner.registry import kinds
from tuner.schema.data import Format
from tuner.schema.transforms.reading import read_step, steps

ENGLISH = "This is a short text about the weather in the north of England, where it rains."
GERMAN = "Das ist ein kurzer Text über das Wetter im Norden von Deutschland, wo es regnet."
CHINESE = "这是一篇关于北方天气的短文，那里经常下雨。"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


def rows_of(found: list[dict[str, Any]]) -> Rows:
    rows = Rows()
    rows.extend("rows.jsonl", Format.jsonl, enumerate(found, 1), stop=True, limit=None)
    return rows


def turns(*said: str) -> list[dict[str, str]]:
    """`turns("user: hi", "assistant: yo")` as messages."""
    return [dict(zip(("role", "content"), s.split(": ", 1), strict=True)) for s in said]


def run(step: str, given: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    return list(apply(rows_of(given), steps([yaml.safe_load(step)]), seed=0, **options)[0])


# (as a recipe writes it, the text before, the text after)
TEXTS = [
    ("strip_html", "<p>a &amp; <b>b</b></p><script>alert(1)</script><p>c<br>d</p> 1 < 2", "a & b\n\nc\nd\n1 < 2"),
    ("strip_html", "no tags: 1 < 2 & x<y", "no tags: 1 < 2 & x<y"),
    ("strip_html", "<!-- x --><a title='1>0'>it's</a> <y@z.de> <![endif]>ok<style>b{}</style>", "it's <y@z.de> ok"),
    ("unescape_html", "a &lt;b&gt; &#228;", "a <b> ä"),
    ("strip_markdown", "# Title\n- a **b** and *c*, [d](http://e.f) `g`\n> h_i_j 2*3*4\n```py\nx = 1\n```", "Title\na b and c, d g\nh_i_j 2*3*4\nx = 1\n"),
    ("strip_urls", "see https://a.b/c?d=e, or www.f.g.", "see , or ."),
    ('strip_urls: "<url>"', "(https://a.b/c)", "(<url>)"),
    ("strip_emoji", "good 👍🏽 day 👩‍👩‍👧 🇩🇪 1️⃣ ☀️ 3 # * ©", "good day 3 # * ©"),
    ("strip_control", "a\x00b\u200bc\ufeff\td\n\u202ee", "abc\td\ne"),
    ("strip_accents", "Él größe naïve हिन्दी", "El große naive हिन्दी"),
    ("fix_encoding", "grÃ¶ÃŸer â€“ gut", "größer – gut"),
    ("normalise_unicode", "e\u0301", "é"),
    ("normalise_unicode: NFKC", "ﬁ Ａ ²", "fi A 2"),
    ("normalise_whitespace", "  a \u00a0 b\t c \n\n\n\n d\n e ", "a b c\n\nd\ne"),
    ("normalise_newlines", "a\r\nb\rc\u2028d", "a\nb\nc\nd"),
    ("normalise_quotes", "„a“ ‘b’ «c» it’s", "\"a\" 'b' \"c\" it's"),
    ("normalise_dashes", "a – b — c‑d…", "a - b - c-d..."),
    ("lowercase", "ÄB", "äb"),
    ("trim", "\n a b \t", "a b"),
    ("collapse_repeats", "sooooo!!!!!! 1000000", "sooo!!! 1000000"),
    ("truncate_chars: 3", "abcdef", "abc"),
    ("truncate_chars: 3", "abe\u0301f", "ab"),
    ("truncate_words: 3", "one two, three four", "one two, three"),
    ("truncate_words: 3", "天气很好", "天气很"),
    ("replace: {pattern: '(\\d+),(\\d+) EUR', by: '\\1.\\2 €'}", "3,50 EUR", "3.50 €"),
    ("remove_lines: '^Sent from'", "a\nSent from my phone\nb", "a\nb"),
    ("scrub_email", "write to jörg.m+x@mail.example.co.uk, or @home", "write to [email], or @home"),
    ("scrub_phone", "+49 30 1234567, (030) 123456, 555-123-4567, 0171/1234567", "[phone], [phone], [phone], [phone]"),
    ("scrub_phone", "2024-05-01, 12.345.678 EUR, 3.14159265, 192.168.1.1, order 1234567", "2024-05-01, 12.345.678 EUR, 3.14159265, 192.168.1.1, order 1234567"),
    ("scrub_ip", "10.1.2.3 2001:db8::ff 127.0.0.1 1.2.3.400 12:30:00 v1.2.3.4.5", "[ip] [ip] 127.0.0.1 1.2.3.400 12:30:00 v1.2.3.4.5"),
    ("scrub_iban", "DE89 3704 0044 0532 0130 00 OK, not DE88 3704 0044 0532 0130 00", "[iban] OK, not DE88 3704 0044 0532 0130 00"),
    ("scrub_card", "4111 1111 1111 1111, not 4111 1111 1111 1112", "[card], not 4111 1111 1111 1112"),
    ("scrub_card", "3782-822463-10005 14000-3920-1000=9080", "[card] 14000-3920-1000=9080"),
    ("scrub_url_credentials", "ftp://me:pw@h.de/ and https://a.b/?token=abc&x=1", "ftp://[credentials]@h.de/ and https://a.b/?token=[credentials]&x=1"),
    ("scrub_secrets", f"AKIAIOSFODNN7EXAMPLE ghp_{'a1' * 18} {JWT} api_key = 'abcd1234efgh'", "[secret] [secret] [secret] api_key = '[secret]'"),
    ("scrub_pii", "a@b.org 4111111111111111 +4930 1234567 10.0.0.1", "[email] [card] [phone] [ip]"),
    ("scrub_pii: {keep: [ip, email]}", "a@b.org 4111111111111111 10.0.0.1", "a@b.org [card] 10.0.0.1"),
]  # fmt: skip

# (as a recipe writes it, rows in, rows out)
ROWS: list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = [
    ("rename: {q: prompt}", [{"q": 1, "prompt": 2, "x": 3}], [{"prompt": 1, "x": 3}]),
    ("rename: {a: b, b: a}", [{"a": 1, "b": 2}], [{"b": 1, "a": 2}]),
    ("keep_columns: [a]", [{"a": 1, "b": 2}], [{"a": 1}]),
    ("drop_columns: [a]", [{"a": 1, "b": 2}], [{"b": 2}]),
    ("set: {a: x}", [{"a": 1, "b": 2}], [{"a": "x", "b": 2}]),
    ("fill_missing: {a: x}", [{"a": None}, {"a": ""}, {}, {"a": 0}], [{"a": "x"}, {"a": "x"}, {"a": "x"}, {"a": 0}]),
    ('template: {p: "{a}\\n{b}"}', [{"a": "x", "b": ""}, {"a": "x", "b": "y"}], [{"a": "x", "b": "", "p": "x"}, {"a": "x", "b": "y", "p": "x\ny"}]),
    ("map_values: {column: l, values: {0: neg, 1: pos}}", [{"l": 0}, {"l": "1"}, {"l": 2}], [{"l": "neg"}, {"l": "pos"}, {"l": 2}]),
    ("map_values: {column: l, values: {true: 1}}", [{"l": True}, {"l": False}], [{"l": 1}, {"l": False}]),
    ("parse_json: m", [{"m": '[{"a": 1}]'}, {"m": None}], [{"m": [{"a": 1}]}, {"m": None}]),
    ("to_json: m", [{"m": {"ä": 1}}], [{"m": '{"ä": 1}'}]),
    ('split_column: {column: t, by: " => ", into: [a, b]}', [{"t": "x => y => z"}, {"t": "x"}], [{"a": "x", "b": "y => z"}, {"a": "x", "b": ""}]),
    ("cast: {column: n, to: integer}", [{"n": "3"}, {"n": 2.0}, {"n": None}], [{"n": 3}, {"n": 2}, {"n": None}]),
    ("cast: {column: n, to: boolean}", [{"n": "Yes"}, {"n": 0}], [{"n": True}, {"n": False}]),
    ("cast: {column: n, to: text}", [{"n": 1.5}, {"n": True}], [{"n": "1.5"}, {"n": "true"}]),
    ("flatten", [{"a": {"b": 1, "c": {"d": 2}}, "e": [1]}], [{"a_b": 1, "a_c_d": 2, "e": [1]}]),
    ("explode: q", [{"c": "x", "q": [{"a": 1}, {"a": 2}]}, {"c": "y", "q": []}], [{"c": "x", "a": 1}, {"c": "x", "a": 2}, {"c": "y", "q": None}]),
    ('filter: "len(t) > 2 and l != 3"', [{"t": "abc", "l": 1}, {"t": "abc", "l": 3}, {"t": "a", "l": 1}], [{"t": "abc", "l": 1}]),
    ("min_chars: 3", [{"t": "ab "}, {"t": "abc"}], [{"t": "abc"}]),
    ("max_chars: 3", [{"t": "abc "}, {"t": "abcd"}], [{"t": "abc "}]),
    ("min_words: 4", [{"t": "one two three"}, {"t": "天气很好"}, {"t": "天气好"}], [{"t": "天气很好"}]),
    ("min_words: 8", [{"t": "ภาษาไทยเป็นภาษาที่ใช้ในประเทศไทย"}, {"t": "ภาษาไทย"}], [{"t": "ภาษาไทยเป็นภาษาที่ใช้ในประเทศไทย"}]),
    ("max_words: 3", [{"t": "one two three"}, {"t": "天气很好"}], [{"t": "one two three"}]),
    ("drop_empty: [a]", [{"a": " "}, {"a": None}, {"b": 1}, {"a": 0}, {"a": "x"}, {"a": []}], [{"a": 0}, {"a": "x"}]),
    ("drop_empty", [{"a": " ", "n": 1}, {"a": "x", "b": ""}], [{"a": "x", "b": ""}]),
    ("drop_missing: [a]", [{"a": None}, {"b": 1}, {"a": ""}], [{"a": ""}]),
    ("drop_missing", [{"a": 1, "b": None}, {"a": 1}], [{"a": 1}]),
    ("drop_matching: '(?i)as an ai'", [{"t": "As an AI I"}, {"t": "fine"}], [{"t": "fine"}]),
    ("keep_values: {column: s, values: [train, 1]}", [{"s": "train"}, {"s": "test"}, {"s": 1}], [{"s": "train"}, {"s": 1}]),
    ("language: [de]", [{"t": ENGLISH}, {"t": GERMAN}, {"t": CHINESE}, {"t": "ok"}], [{"t": GERMAN}, {"t": "ok"}]),
    ("language: [zh, en]", [{"t": ENGLISH}, {"t": GERMAN}, {"t": CHINESE}], [{"t": ENGLISH}, {"t": CHINESE}]),
    ("script: [Latin]", [{"t": "abc"}, {"t": "абв"}, {"t": "12"}], [{"t": "abc"}, {"t": "12"}]),
    ("drop_duplicates", [{"a": 1, "b": 1}, {"b": 1, "a": 1}, {"a": "1", "b": 1}], [{"a": 1, "b": 1}, {"a": "1", "b": 1}]),
    ("drop_duplicates: [a]", [{"a": 1, "b": 1}, {"a": 1, "b": 2}], [{"a": 1, "b": 1}]),
    ("drop_duplicates: {loose: true}", [{"a": "Hi, you!"}, {"a": "hi  you"}, {"a": "hi"}], [{"a": "Hi, you!"}, {"a": "hi"}]),
    ("drop_conflicting: {fields: [t], column: l}", [{"t": "a", "l": 0}, {"t": "a", "l": 1}, {"t": "b", "l": 0}], [{"t": "b", "l": 0}]),
    ("drop_near_duplicates: 0.6", [{"t": ENGLISH}, {"t": ENGLISH.replace("rains", "snows")}, {"t": GERMAN}], [{"t": ENGLISH}, {"t": GERMAN}]),
    ("quality_repetition", [{"t": "buy now " * 20}, {"t": "a\na\na\na"}, {"t": ENGLISH}], [{"t": ENGLISH}]),
    ("quality_symbols", [{"t": "# # # a"}, {"t": "read more…\nand so on…"}, {"t": ENGLISH}], [{"t": ENGLISH}]),
    ("quality_alphabetic", [{"t": "1 2 3 a"}, {"t": ENGLISH}, {"t": CHINESE}], [{"t": ENGLISH}, {"t": CHINESE}]),
    ("quality_mean_word_length", [{"t": "a b c d"}, {"t": "x" * 40}, {"t": ENGLISH}, {"t": CHINESE}], [{"t": ENGLISH}, {"t": CHINESE}]),
    ("quality_terminal_punctuation", [{"t": "home\nabout\ncontact"}, {"t": ENGLISH}, {"t": CHINESE}], [{"t": ENGLISH}, {"t": CHINESE}]),
    ("quality_stop_words", [{"t": "cheap shoes buy shoes"}, {"t": "the end of it"}], [{"t": "the end of it"}]),
    ("sample: 2", [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}], [{"n": 1}, {"n": 4}]),
    ("sample: {fraction: 0.25}", [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}], [{"n": 1}]),
    ("first: 1", [{"n": 1}, {"n": 2}], [{"n": 1}]),
    ("balance: l", [{"l": 0}, {"l": 0}, {"l": 1}], [{"l": 0}, {"l": 1}]),
    ("balance: {column: l, by: up}", [{"l": 0}, {"l": 0}, {"l": 1}], [{"l": 0}, {"l": 0}, {"l": 1}, {"l": 1}]),
    ("limit_per: {column: l, n: 1}", [{"l": 0, "n": 1}, {"l": 0, "n": 2}, {"l": 1, "n": 3}], [{"l": 0, "n": 1}, {"l": 1, "n": 3}]),
    ("shuffle", [{"n": 1}, {"n": 2}, {"n": 3}], [{"n": 2}, {"n": 1}, {"n": 3}]),
    ("sort_by: {column: n, descending: true}", [{"n": 1}, {"n": None}, {"n": 2}], [{"n": 2}, {"n": 1}, {"n": None}]),
    ("repeat: {times: 2, where: \"s == 'gold'\"}", [{"s": "gold"}, {"s": "web"}], [{"s": "gold"}, {"s": "gold"}, {"s": "web"}]),
]  # fmt: skip

# (as a recipe writes it, conversations in, conversations out)
TALKS: list[tuple[str, list[list[str]], list[list[str]]]] = [
    ("min_turns: 2", [["system: s", "user: a"], ["user: a", "assistant: b"], []], [["user: a", "assistant: b"]]),
    ("max_turns: 2", [["user: a", "assistant: b", "user: c"], ["system: s", "user: a", "assistant: b"]], [["system: s", "user: a", "assistant: b"]]),
    ("truncate_turns: 2", [["system: s", "user: a", "assistant: b", "user: c"]], [["system: s", "user: a", "assistant: b"]]),
    ("drop_last_user_turn", [["user: a", "assistant: b", "user: c"]], [["user: a", "assistant: b"]]),
    ("require_assistant_last", [["user: a"], ["user: a", "assistant: b"]], [["user: a", "assistant: b"]]),
    ("require_alternation", [["user: a", "user: b", "assistant: c"], ["assistant: a"], ["user: a", "assistant: b"]], [["user: a", "assistant: b"]]),
    ('merge_same_role: " "', [["user: a", "user: b", "assistant: c"]], [["user: a b", "assistant: c"]]),
    ("drop_system", [["system: s", "user: a"]], [["user: a"]]),
    ("drop_empty_turns", [["user: a", "assistant:  ", "assistant: b"]], [["user: a", "assistant: b"]]),
]  # fmt: skip


# The same for conversations in several columns: a prompt, and what follows it
PARTED: list[tuple[str, dict[str, list[str]], dict[str, list[str]] | None]] = [
    ("min_turns: 3", {"prompt": ["user: a"], "completion": ["assistant: b"]}, None),
    ("min_turns: 2", {"prompt": ["user: a"], "completion": ["assistant: b"]}, {"prompt": ["user: a"], "completion": ["assistant: b"]}),
    ("max_turns: 2", {"prompt": ["user: a"], "chosen": ["assistant: b"], "rejected": ["assistant: b", "user: c"]}, None),
    ("max_turns: 2", {"chosen": ["user: a", "assistant: b"], "rejected": ["user: a", "assistant: c"]}, {"chosen": ["user: a", "assistant: b"], "rejected": ["user: a", "assistant: c"]}),
    ("max_turns: 2", {"prompt": ["user: a"], "chosen": ["user: a", "assistant: b"]}, {"prompt": ["user: a"], "chosen": ["user: a", "assistant: b"]}),
    ("require_assistant_last", {"prompt": ["user: a"], "chosen": ["assistant: b"], "rejected": ["user: c"]}, None),
    ("require_assistant_last", {"prompt": ["user: a"]}, {"prompt": ["user: a"]}),
    ("require_alternation", {"prompt": ["user: a"], "completion": ["assistant: b"]}, {"prompt": ["user: a"], "completion": ["assistant: b"]}),
    ("require_alternation", {"prompt": ["user: a", "assistant: b"], "completion": ["assistant: c"]}, None),
    ("truncate_turns: 1", {"prompt": ["user: a", "assistant: b", "user: c"], "completion": ["assistant: d"]}, {"prompt": ["user: a", "assistant: b", "user: c"], "completion": ["assistant: d"]}),
    ("truncate_turns: {most: 1, fields: [prompt]}", {"prompt": ["user: a", "assistant: b"]}, {"prompt": ["user: a"]}),
    ("drop_last_user_turn", {"prompt": ["user: a"], "completion": ["assistant: b", "user: c"]}, {"prompt": ["user: a"], "completion": ["assistant: b"]}),
    ("merge_same_role", {"prompt": ["user: a", "user: b"], "chosen": ["assistant: c"]}, {"prompt": ["user: a\n\nb"], "chosen": ["assistant: c"]}),
    ("drop_system", {"prompt": ["system: s", "user: a"], "completion": ["assistant: b"]}, {"prompt": ["user: a"], "completion": ["assistant: b"]}),
    ("drop_empty_turns", {"chosen": ["user: a", "assistant:  ", "assistant: b"]}, {"chosen": ["user: a", "assistant: b"]}),
]  # fmt: skip


@pytest.mark.parametrize(("step", "before", "after"), TEXTS)
def test_a_text_is_changed_wherever_it_stands(step: str, before: str, after: str) -> None:
    row = {
        "n": 1,
        "text": before,
        "messages": [{"role": "user", "content": before}, {"from": "gpt", "value": [{"type": "text", "text": before}]}],
    }
    wanted = {
        "n": 1,
        "text": after,
        "messages": [{"role": "user", "content": after}, {"from": "gpt", "value": [{"type": "text", "text": after}]}],
    }
    assert run(step, [row]) == [wanted]
    assert run(step, [wanted]) == [wanted], "a second time changes nothing"
    assert row["text"] == before, "rows are not changed in place"


@pytest.mark.parametrize(("step", "before", "after"), ROWS)
def test_rows_become(step: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    found = run(step, before)
    assert found == after
    assert [[type(v) for v in row.values()] for row in found] == [[type(v) for v in row.values()] for row in after]


@pytest.mark.parametrize(("step", "before", "after"), TALKS)
@pytest.mark.parametrize("sharegpt", [False, True])
def test_conversations_become(step: str, before: list[list[str]], after: list[list[str]], sharegpt: bool) -> None:
    def talk(said: list[str]) -> dict[str, Any]:
        messages = turns(*said)
        if not sharegpt:
            return {"messages": messages}
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        return {"conversations": [{"from": names[m["role"]], "value": m["content"]} for m in messages]}

    assert run(step, [talk(said) for said in before]) == [talk(said) for said in after]


@pytest.mark.parametrize(("step", "before", "after"), PARTED)
def test_conversations_in_several_columns_become(step: str, before: dict[str, list[str]], after: dict[str, list[str]] | None) -> None:
    kept = {"prompt": "p", "completion": "a text is left alone"}
    found = run(step, [kept, {name: turns(*said) for name, said in before.items()}])
    assert found == [kept] + ([{name: turns(*said) for name, said in after.items()}] if after else [])


def test_a_prompt_of_text_begins_the_conversation() -> None:
    row = {"prompt": "hi", "chosen": turns("assistant: a"), "rejected": turns("assistant: b")}
    assert run("require_alternation", [row]) == [row]


def test_every_transform_has_a_case_and_an_example_that_can_be_read() -> None:
    tested = {read_step(yaml.safe_load(case[0]))[0].kind for case in [*TEXTS, *ROWS, *TALKS]}  # type: ignore[union-attr]
    assert tested == {name for name in kinds("transform") if not name.startswith("augment_")}, "those are in test_augment.py"
    assert len(tested) >= 40
    for name, cls in kinds("transform").items():
        step, wrong = read_step(yaml.safe_load(cls.example))
        assert wrong == []
        assert step is not None
        assert step.kind == name


def test_no_rows_are_left_alone() -> None:
    """No held-out rows: `data.eval_fraction: 0`."""
    found, reports = apply(Rows(), steps(["strip_html", "drop_empty"]), seed=0, held_out=True)
    assert (len(found), reports) == (0, [])


HARD = ("<a ", "<![", "<!--", "[a](", "![", "_", "&#", "a@a.", "x:", "0 ", "eyJa.", "GB82 ", "=", "\n ", "é", "👍")


@pytest.mark.parametrize("step", ["strip_html", "strip_markdown", "strip_urls", "strip_emoji", "normalise_whitespace", "scrub_pii"])
def test_a_hostile_text_costs_no_more_than_its_length(step: str) -> None:
    started = time.perf_counter()
    for unit in HARD:
        run(step, [{"text": unit * (50_000 // len(unit))}])
    assert time.perf_counter() - started < 10, "the standard library's HTML parser takes a minute for the first of them"
