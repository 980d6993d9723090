"""The language of `filter`, checked without running anything: `expression_problem("len(text) > 20 and label != 3")` yields what is wrong.

It is a small part of Python: columns by name, `meta.lang` and `messages[0].content` inside them, constants, `and or not`, comparisons,
`in`, `+ - * / // %`, and the functions of FUNCTIONS. All else is refused, so that a stranger's recipe cannot run code; what an expression
costs is bounded (data/expressions.py evaluates it, walking the tree: there is no `eval`).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from tuner.errors import nearest

# Name -> (fewest, most arguments).
FUNCTIONS: dict[str, tuple[int, int]] = {
    "len": (1, 1),
    "words": (1, 1),
    "lower": (1, 1),
    "upper": (1, 1),
    "strip": (1, 1),
    "startswith": (2, 2),
    "endswith": (2, 2),
    "contains": (2, 2),
    "matches": (2, 2),
    "column": (1, 1),
    "min": (1, 20),
    "max": (1, 20),
    "abs": (1, 1),
    "round": (1, 2),
    "int": (1, 1),
    "float": (1, 1),
    "str": (1, 1),
}
CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
OPERATORS: tuple[type[ast.AST], ...] = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.And, ast.Or, ast.Not, ast.USub)
COMPARISONS: tuple[type[ast.AST], ...] = (
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
    *(ast.In, ast.NotIn, ast.Is, ast.IsNot),
)
NODES: tuple[type[ast.AST], ...] = (
    *(ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Constant, ast.Name, ast.Load),
    *(ast.Attribute, ast.Subscript, ast.List, ast.Tuple),
)
MOST_CHARACTERS, MOST_PARTS, MOST_PATTERN = 2000, 300, 500


class Refused(Exception):
    """What of an expression is not allowed, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def parse_expression(text: str) -> ast.expr:
    """The checked tree of an expression. Raises Refused with the part that is not allowed."""
    if len(text) > MOST_CHARACTERS:
        raise Refused(f"an expression of {len(text)} characters", f"write it in {MOST_CHARACTERS}, or as several `filter` steps")
    try:
        with warnings.catch_warnings():  # '\\d' in a pattern is meant as it stands
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise Refused(f"not an expression: {text!r}: {reason}", "write it as `len(text) > 20 and label != 3`") from None
    parts = list(ast.walk(tree))
    if len(parts) > MOST_PARTS:
        raise Refused(f"an expression of {len(parts)} parts, more than {MOST_PARTS}", "write it as several `filter` steps")
    for node in parts:
        _allowed(node)
    return tree.body


def expression_problem(text: str) -> Iterator[tuple[str, str]]:
    """(what is wrong, what to do); nothing when the expression is good."""
    try:
        parse_expression(text)
    except Refused as refused:
        yield refused.what, refused.fix


def columns_in(tree: ast.expr) -> set[str]:
    """The columns that an expression names; those of `column("…")` may be absent everywhere."""
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called and n.id not in CONSTANTS}


def _allowed(node: ast.AST) -> None:
    """Raises Refused when a node, looked at by itself, is not of the language."""
    if not isinstance(node, NODES + OPERATORS + COMPARISONS):
        what = ast.unparse(node) if isinstance(node, ast.expr) else {"Pow": "**"}.get(type(node).__name__, type(node).__name__)
        raise Refused(
            f"`{what}` is not allowed in an expression", "columns, constants, comparisons, `and or not in`, + - * / and functions"
        )
    if isinstance(node, ast.Call):
        _call(node)
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        raise Refused(f"`{ast.unparse(node)}` is not allowed in an expression", 'a key that begins so is `meta["_key"]`')
    if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | bool | None):
        raise Refused(f"`{ast.unparse(node)}` is not allowed in an expression", "constants are texts, numbers, true, false and null")
    if isinstance(node, ast.Subscript) and not _is_key(node.slice):
        raise Refused(
            f"`{ast.unparse(node)}` is not allowed in an expression", 'inside brackets stands a number or a text: `messages[0]["role"]`'
        )


def _is_key(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, str | int)


def _call(node: ast.Call) -> None:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name not in FUNCTIONS:
        guess = nearest(name, FUNCTIONS) if name else None
        fix = f"did you mean `{guess}`?" if guess else f"functions: {', '.join(FUNCTIONS)}"
        raise Refused(f"`{ast.unparse(node.func)}(…)` is no function of the language", fix)
    few, many = FUNCTIONS[name]
    if node.keywords or not few <= len(node.args) <= many:
        raise Refused(f"`{ast.unparse(node)}`: `{name}` takes {few if few == many else f'{few} to {many}'} arguments", "give it that many")
    last = node.args[-1]
    if name in ("matches", "column") and not (isinstance(last, ast.Constant) and isinstance(last.value, str)):
        raise Refused(f"`{ast.unparse(node)}`: what stands last is a text in quotation marks", f"write it out: `{name}(…, 'text')`")
    if name == "matches":
        for what, fix in pattern_problem(pattern_of(last)):
            raise Refused(what, fix)


def pattern_of(node: ast.expr) -> str:
    """The pattern of `matches`; `\\b` is the edge of a word there, not the backspace that Python reads."""
    return str(ast.literal_eval(node)).replace("\b", "\\b")


def pattern_problem(pattern: str, *, by: str = "") -> Iterator[tuple[str, str]]:
    """(what is wrong with a regular expression, or with what replaces it; what to do)."""
    if len(pattern) > MOST_PATTERN:
        yield f"a regular expression of {len(pattern)} characters", f"write it in {MOST_PATTERN}, or as several steps"
        return
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        yield f"not a regular expression: {pattern!r}: {error}", "quote it with single quotes in YAML: '\\d+'"
        return
    named = [int(g) for g in re.findall(r"\\(\d+)", by)]
    if any(g > compiled.groups for g in named):
        yield f"{by!r} names group {max(named)}, and {pattern!r} has {compiled.groups}", "groups are what stands in ( )"
