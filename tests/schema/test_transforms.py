"""Transforms in a recipe: every fault with its line and the nearest right name; the language of `filter`; `tune ls` and `tune explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.checks import RULES
from tuner.cli import main
from tuner.data.expressions import Failed, compiled
from tuner.data.words import count_words, first_words, tokens_of
from tuner.errors import Problem, TuneError
from tuner.plan import make_plan
from tuner.schema.compose import compose
from tuner.schema.expression import Refused, expression_problem, parse_expression
from tuner.schema.transforms.reading import steps

pytestmark = pytest.mark.usefixtures("project")


def faults(text: str, *overrides: str) -> list[Problem]:
    Path("clean.yaml").write_text("defaults: [{model: smollm2-135m}]\ndata:\n  path: train.jsonl\n  transforms:\n" + text, encoding="utf-8")
    with pytest.raises(TuneError) as caught:
        compose("clean.yaml", [*overrides], rules=RULES)
    assert caught.value.code == 2
    return caught.value.problems


@pytest.mark.parametrize(
    ("item", "what", "fix"),
    [
        ("strip_htm", "unknown transform `strip_htm`", "did you mean `strip_html`?"),
        ("dedup", "unknown transform `dedup`", "did you mean `drop_duplicates`?"),
        ("normalize_unicode", "unknown transform `normalize_unicode`", "did you mean `normalise_unicode`?"),
        ("qqqq: 1", "unknown transform `qqqq`", "see `tune ls transforms`"),
        ("3", "a step of `data.transforms` has one name, not 3", "write a name, or `name: arguments`"),
        ("{trim: {}, lowercase: {}}", "a step of `data.transforms` has one name: here are trim, lowercase", "write a name"),
        ("min_chars", "`min_chars` needs `least`", "as `- min_chars: {least: 20, fields: [completion]}`"),
        ("min_chars: many", "`min_chars.least` takes int, not 'many'", "write it as 16"),
        ("min_chars: 0", "`min_chars.least` must be at least 1, not 0", "see `tune explain transforms.min_chars`"),
        ("min_chars: {leest: 3}", "`min_chars` has no argument `leest`", "did you mean `least`?"),
        ("strip_html: true", "`strip_html` takes no single value, and True stands there", "as `- strip_html`"),
        ("drop_near_duplicates: {treshold: 0.8}", "`drop_near_duplicates` has no argument `treshold`", "did you mean `threshold`?"),
        ("drop_near_duplicates: 1.5", "`drop_near_duplicates.threshold` must be at most 1, not 1.5", "see `tune explain"),
        ("normalise_unicode: NFX", "`normalise_unicode.form` takes NFC | NFD | NFKC | NFKD, not 'NFX'", "one of NFC, NFD"),
        ("cast: {column: n, to: int}", "`cast.to` takes text | integer | number | boolean, not 'int'", "one of text, integer"),
        ("sample: {}", "`sample`: say how many: `n` or `fraction`", "write `sample: 1000`"),
        ("replace: {pattern: '('}", "`replace`: not a regular expression: '('", "quote it with single quotes"),
        ("replace: {pattern: 'a', by: '\\2'}", "`replace`: '\\\\2' names group 2, and 'a' has 0", "groups are what stands in ( )"),
        ("scrub_pii: {keep: [emial]}", "`scrub_pii`: nothing is called `emial`", "did you mean `email`?"),
        ('filter: "lenn(text) > 3"', "`filter`: `lenn(…)` is no function of the language", "did you mean `len`?"),
        ("language: [de, deu]", "`language`: no language has the code `deu`", "one of ace, af, am"),
        ("language: [no]", "`language`: no language has the code `false`", 'write `"no"`'),
        ('filter: "len(text >"', "`filter`: not an expression: 'len(text >'", "write it as"),
        ('split_column: {column: a, by: "", into: [b]}', "`split_column`: `by` and `into` cannot be empty", "write `{column: pair"),
    ],
)
def test_a_wrong_step_is_told_with_its_line(item: str, what: str, fix: str) -> None:
    (problem,) = [p for p in faults(f"    - trim\n    - {item}\n") if what in p.what]
    assert problem.where == "clean.yaml:6"
    assert fix in problem.fix


def test_every_wrong_step_is_told_at_once_and_with_the_other_problems() -> None:
    found = faults("    - trimm\n    - min_chars: {least: x, feelds: [a]}\n", "trainer.lr=1", "data.transfroms=[trim]")
    assert {p.where for p in found} == {"clean.yaml:5", "clean.yaml:6", "trainer.lr=1", "data.transfroms=[trim]"}
    assert len(found) == 5  # two of them about the second step
    assert "did you mean `data.transforms`?" in [p.fix for p in found]


def test_a_wrong_step_of_the_command_line_is_told_as_it_was_typed() -> None:
    with pytest.raises(TuneError) as caught:
        compose("mine.yaml", ["data.transforms=[trim,stripp_html]"], rules=RULES)
    assert caught.value.problems[0].where == "data.transforms=[trim,stripp_html]"


def test_contamination_needs_held_out_rows() -> None:
    with pytest.raises(TuneError, match=r"`data\.contamination=stop` has no held-out rows"):
        compose("mine.yaml", ["data.eval_path=null", "data.eval_fraction=0", "eval=none", "data.contamination=stop"], rules=RULES)


def test_keys_that_yaml_reads_as_numbers_come_through_the_plan() -> None:
    text = "    - map_values: {column: l, values: {0: bad, true: good, x: y}}\n"
    Path("clean.yaml").write_text("defaults: [{model: smollm2-135m}]\ndata:\n  path: train.jsonl\n  transforms:\n" + text, encoding="utf-8")
    plan = make_plan(compose("clean.yaml", [], rules=RULES))
    plan.write(Path("plan.json"))
    frozen = json.loads(Path("plan.json").read_text(encoding="utf-8"))["recipe"]["data"]["transforms"]
    (step,) = steps(frozen)
    assert step.values == {"0": "bad", "true": "good", "x": "y"}  # type: ignore[attr-defined]


# The language of `filter`

ROW: dict[str, Any] = {
    "text": "Hello, wide world",
    "label": 3,
    "score": 0.5,
    "none": None,
    "meta": {"lang": "de", "tags": ["a", "b"]},
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    "my col": 1,
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("len(text) == 17 and words(text) == 3", True),
        ("label in [1, 2] or not score > 0.6", True),
        ("1 < label <= 3", True),
        ("label not in (1, 2)", True),
        ("meta.lang == 'de' and 'a' in meta.tags", True),
        ("meta.none is null and absent is null", True),
        ("messages[-1].content == 'yo' and messages[0]['role'] != 'assistant'", True),
        ("messages[7] is null", True),
        ("len(messages) // 2 + label % 2 * 10 - 1", 10),
        ("startswith(lower(text), 'hello') and endswith(text, 'ld') and contains(text, 'wide')", True),
        ("matches(text, '^H\\w+,') and matches(text, '\\bwide\\b') and not matches(text, '\\bwid\\b') and not matches(text, 'x{3}')", True),
        ("max(label, 5) + min(1, 2) + abs(-1) + round(2.6) + int('4') + float('0.5')", 14.5),
        ("round(3.14159, 2)", 3.14),
        ("column('my col') == 1", True),
        ("len(none) == 0 and words(none) == 0 and lower(none) == ''", True),
        ("upper(strip(' a ')) + str(label)", "A3"),
        ("true and not false", True),
    ],
)
def test_an_expression_has_its_value(expression: str, value: Any) -> None:
    assert compiled(expression)(ROW) == value


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("__import__('os').system('id')", "`__import__('os').system(…)`"),
        ("text.__class__", "`text.__class__`"),
        ("().__class__.__bases__", "__bases__"),
        ("[x for x in text]", "`[x for x in text]`"),
        ("(lambda: 1)()", "is no function"),
        ("2 ** 9999999", "`**`"),
        ("1 << 99999999", "`LShift`"),
        ("f'{text:>99999999}'", "is not allowed"),
        ("text if label else 1", "`text if label else 1`"),
        ("(x := 1)", "`(x := 1)`"),
        ("text[1:]", "`text[1:]`"),
        ("text[label]", "`text[label]`"),
        ("{**meta}", "is not allowed"),
        ("len(*messages)", "is not allowed"),
        ("len(obj=text)", "`len` takes 1"),
        ("len()", "`len` takes 1"),
        ("matches(text, pattern)", "what stands last is a text"),
        ("matches(text, '(')", "not a regular expression"),
        ("eval('1')", "`eval(…)` is no function"),
        ("b'x' == text", "`b'x'`"),
        ("1j", "`1j`"),
        ("text = 3", "not an expression"),
        ("", "not an expression"),
        ("(" * 300, "not an expression"),
        ("a+" * 200 + "a", "parts, more than"),
        ("x" * 2001, "an expression of 2001 characters"),
    ],
)
def test_what_is_not_of_the_language_is_refused_by_its_part(expression: str, part: str) -> None:
    ((what, fix),) = expression_problem(expression)
    assert part in what
    assert fix
    with pytest.raises(Refused):
        parse_expression(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "'a' * 999999999",
        "text * 999999999",
        "'%999999999d' % 1",
        "[1] * 999999999",
        "none > 1",
        "1 / 0",
        "int(text)",
        "meta + meta",
        "text < 1",
    ],
)
def test_what_cannot_be_computed_fails_fast_and_in_words(expression: str) -> None:
    with pytest.raises(Failed):
        compiled(expression)(ROW)


def test_a_pattern_cannot_search_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.expressions.PATTERN_S", 0.05)
    with pytest.raises(Failed, match="searched longer than"):
        compiled(r"matches(text, '^(a|aa)+$')")({"text": "a" * 60 + "b"})


# Words


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("don't stop, well-known 3.5 e.g. this", 6),
        ("这是一个测试", 6),
        ("これはテストです", 8),
        ("这是 a test", 4),
        ("한국어 문장 입니다", 3),
        ("हिन्दी में लिखा", 3),
        ("ภาษาไทย", 2),
        (" … — !", 0),
        ("", 0),
    ],
)
def test_words_are_counted_rightly_in_every_script(text: str, count: int) -> None:
    assert count_words(text) == count
    assert first_words(text, max(1, count)).strip() == text.strip() or count in (0, 5, 6)


def test_tokens_of_ascii_are_those_of_every_other_text() -> None:
    text = "The QUICK_brown fox's 3.5 e-mails, and a 2nd"
    assert tokens_of(text) == [*tokens_of(text + "é")[:-1], "2nd"]


# tune ls, tune explain


def told(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert main([*args]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def test_ls_transforms(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "ls", "transforms").splitlines()
    assert (
        "strip_html\tTakes HTML tags, comments, scripts and styles out; blocks and `<br>` become line breaks, entities characters." in lines
    )
    found = json.loads(told(capsys, "ls", "transforms", "--json"))
    assert len(found) >= 40
    assert {"name", "doc", "drops", "held_out", "example", "origin"} == set(found[0])
    assert all(item["doc"] and item["example"] for item in found)


def test_explain_a_transform(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "explain", "transforms.drop_near_duplicates")
    assert "Jaccard likeness of word 3-grams" in text
    assert "in a file     data: {transforms: [{drop_near_duplicates: {threshold: 0.8}}]}" in text
    assert "threshold\tfloat, at least 0.3, at most 1\t0.8\tLikeness" in text
    assert told(capsys, "explain", "data.transforms.drop_near_duplicates") == text
    assert json.loads(told(capsys, "explain", "transforms.min_chars", "--json"))["arguments"][1]["required"]
    assert "did you mean `tune explain transforms.strip_html`?" in told(capsys, "explain", "transforms.strip_htm", code=2)
    assert "`tune ls transforms` has them all" in told(capsys, "explain", "data.transforms")
