"""Evaluates `filter`'s language: `compiled("len(text) > 20")({"text": "…"})` -> True or False. It walks the tree; no `eval`."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import regex

from tuner.data.words import count_words
from tuner.schema.expression import CONSTANTS, parse_expression, pattern_of

Row = dict[str, Any]
Value = Callable[[Row], Any]
PATTERN_S = 2.0  # how long a regular expression may search one text
LONGEST = 10_000_000  # characters of a text that an expression makes


class Failed(Exception):
    """An expression cannot be computed for a row, in words."""


def compiled(text: str) -> Value:
    """The expression as a function of a row. It raises Failed. Raises Refused when the expression is not of the language."""
    tree = parse_expression(text)
    value = _value(tree)

    def run(row: Row) -> Any:
        try:
            return value(row)
        except TimeoutError as error:
            raise Failed(f"a regular expression searched longer than {PATTERN_S:g} s") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise Failed(f"{type(error).__name__}: {error}") from error

    return run


def _value(node: ast.expr) -> Value:
    return _MAKERS[type(node)](node)


def _constant(node: ast.Constant) -> Value:
    return lambda row: node.value


def _name(node: ast.Name) -> Value:
    name = node.id
    if name in CONSTANTS:
        return lambda row: row.get(name, CONSTANTS[name])
    return lambda row: row.get(name)


def _inside(value: Any, key: Any) -> Any:
    """What a mapping or a list holds; null where it holds no such thing."""
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int):
        return value[key] if -len(value) <= key < len(value) else None
    return None


def _attribute(node: ast.Attribute) -> Value:
    inner, key = _value(node.value), node.attr
    return lambda row: _inside(inner(row), key)


def _subscript(node: ast.Subscript) -> Value:
    inner, key = _value(node.value), ast.literal_eval(node.slice)
    return lambda row: _inside(inner(row), key)


def _items(node: ast.List | ast.Tuple) -> Value:
    items = [_value(item) for item in node.elts]
    return lambda row: [item(row) for item in items]


def _bool(node: ast.BoolOp) -> Value:
    parts, both = [_value(part) for part in node.values], isinstance(node.op, ast.And)
    return (lambda row: all(p(row) for p in parts)) if both else (lambda row: any(p(row) for p in parts))


def _unary(node: ast.UnaryOp) -> Value:
    inner = _value(node.operand)
    return (lambda row: not inner(row)) if isinstance(node.op, ast.Not) else (lambda row: -inner(row))


_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.eq,
    ast.IsNot: operator.ne,
}


def _compare(node: ast.Compare) -> Value:
    first = _value(node.left)
    rest = [(_COMPARE[type(op)], _value(right)) for op, right in zip(node.ops, node.comparators, strict=True)]

    def run(row: Row) -> bool:
        left = first(row)
        for compare, value in rest:
            right = value(row)
            if not compare(left, right):
                return False
            left = right
        return True

    return run


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _binary(node: ast.BinOp) -> Value:
    left, right, compute = _value(node.left), _value(node.right), _ARITHMETIC[type(node.op)]
    adds = isinstance(node.op, ast.Add)

    def run(row: Row) -> Any:
        a, b = left(row), right(row)
        if adds and isinstance(a, str) and isinstance(b, str):
            if len(a) + len(b) > LONGEST:
                raise ValueError(f"a text longer than {LONGEST:,} characters")
        elif not isinstance(a, int | float) or not isinstance(b, int | float):  # "%99999d" % 1 and "a" * 10**9 are not arithmetic
            raise TypeError(f"{ast.unparse(node)} with {a!r:.40} and {b!r:.40}")
        return compute(a, b)

    return run


def _length(value: Any) -> int:
    return 0 if value is None else len(value)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "len": _length,
    "words": lambda text: count_words(text or ""),
    "lower": lambda text: (text or "").lower(),
    "upper": lambda text: (text or "").upper(),
    "strip": lambda text: (text or "").strip(),
    "startswith": lambda text, part: (text or "").startswith(part),
    "endswith": lambda text, part: (text or "").endswith(part),
    "contains": lambda whole, part: part in (whole if whole is not None else ""),
    "min": min,
    "max": max,
    "abs": abs,
    "round": lambda number, digits=0: round(number, max(-20, min(20, digits))) if digits else round(number),
    "int": int,
    "float": float,
    "str": lambda value: "" if value is None else str(value),
}


def _call(node: ast.Call) -> Value:
    assert isinstance(node.func, ast.Name)
    name, arguments = node.func.id, [_value(a) for a in node.args]
    if name == "column":
        return lambda row: row.get(arguments[0](row))
    if name == "matches":
        text, pattern = arguments[0], regex.compile(pattern_of(node.args[1]))
        return lambda row: pattern.search(text(row) or "", timeout=PATTERN_S) is not None
    function = _FUNCTIONS[name]
    if len(arguments) == 1:
        only = arguments[0]
        return lambda row: function(only(row))
    return lambda row: function(*[a(row) for a in arguments])


_MAKERS: dict[type[ast.expr], Callable[[Any], Value]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.List: _items,
    ast.Tuple: _items,
    ast.BoolOp: _bool,
    ast.UnaryOp: _unary,
    ast.Compare: _compare,
    ast.BinOp: _binary,
    ast.Call: _call,
}
