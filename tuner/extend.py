"""What a person's own file imports to add a step of `data.transforms`, a reward, a metric: `from tuner.extend import metric, transform`.

    from tuner.extend import transform

    @transform
    def shout(row: dict, *, column: str = "text", mark: str = "!") -> dict:
        '''Says it louder.

        column: the column that is changed
        mark: what stands at the end
        '''
        row[column] = row[column].upper() + mark
        return row

A recipe then has `- shout` or `- shout: {mark: "?!"}`, and the file is named on the command line: `--extensions FILE --trust`.

What the function says that it returns is what it may do: `dict` shapes a row (held-out rows get it too), `dict | None` may drop it,
`list[dict]` makes several of it. A second parameter, after the row, gets a `random.Random` that is the row's own and the same every time.

A reward (`task.rewards: {polite: 1}`) or a metric (`eval.metrics: [polite]`) gives an answer a number; it names what it wants of answer,
reference and prompt (messages):

    @metric
    def polite(answer: str, reference: str) -> float:
        return float("please" in answer)
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Collection
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.errors import TuneError
from tuner.registry import kind, kinds, origin
from tuner.schema.base import opt
from tuner.schema.eval import METRICS
from tuner.schema.rewarded import REWARDS
from tuner.schema.transforms.base import Transform

SCORED = ("answer", "reference", "prompt")
PLAIN = (bool, int, float, str)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def transform(named: Any = "", /, *, held_out: bool = True) -> Any:
    """Makes a function a step of `data.transforms`, called as the function is, or by `name`.

    `held_out=False` keeps a step that shapes rows away from held-out rows. Raises TuneError (code 2) with the function's place.
    """
    if callable(named):
        _register(named, named.__name__, held_out=True)
        return named

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _register(function, named or function.__name__, held_out=held_out)
        return function

    return register


def reward(named: Any = "", /) -> Any:
    """Makes a function a reward of `task.rewards`, called as the function is, or by `name`. Raises TuneError (code 2) with its place."""
    return _scorer("reward", REWARDS, named)


def metric(named: Any = "", /) -> Any:
    """Makes a function a metric of `eval.metrics`, called as the function is, or by `name`. Raises TuneError (code 2) with its place.

    Its mean over the held-out rows is compared; higher is better.
    """
    return _scorer("metric", METRICS, named)


def _scorer(group: str, ours: Collection[str], named: Any) -> Any:
    if callable(named):
        _scoring(group, ours, named, named.__name__)
        return named

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _scoring(group, ours, function, named or function.__name__)
        return function

    return register


def _scoring(group: str, ours: Collection[str], function: Callable[..., Any], name: str) -> None:
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    takes = tuple(inspect.signature(function).parameters)
    there = kinds(group).get(name)
    if name in ours or (there is not None and there.__module__ != function.__module__):
        raise TuneError(f"there is a {group} `{name}` already", where, f'choose another name: `@{group}("my_name")`')
    if not _NAME.fullmatch(name):
        raise TuneError(f"`{name}` cannot be the name of a {group}", where, f'small letters, digits and _: `@{group}("my_name")`')
    if not takes or not set(takes) <= set(SCORED):
        fix = f"write `def {name}(answer: str, reference: str) -> float:`"
        raise TuneError(f"`{name}` takes {', '.join(takes) or 'nothing'}; a {group} takes {', '.join(SCORED)}, or some", where, fix)
    body = {"__doc__": _documented(function)[0], "function": staticmethod(function), "takes": takes, "__module__": function.__module__}
    kind(group, name)(type(name, (), body))


def _register(function: Callable[..., Any], name: str, *, held_out: bool) -> None:
    where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    there = kinds("transform").get(name)
    if there is not None and there.__module__ != function.__module__:
        owner = found.name if (found := origin(there)) else "tune"
        raise TuneError(f"there is a transform `{name}` already, of {owner}", where, 'choose another name: `@transform("my_name")`')
    if not _NAME.fullmatch(name):
        raise TuneError(f"`{name}` cannot be the name of a transform", where, 'small letters, digits and _: `@transform("my_name")`')
    try:
        made = _declared(function, name, held_out=held_out)
        OmegaConf.structured(made)
    except _Refused as refused:
        raise TuneError(f"`{name}`: {refused.what}", where, refused.fix) from refused
    except (OmegaConfBaseException, NameError) as error:
        fix = "types of parameters: str, int, float, bool, list[str], dict[str, str], an Enum, or one of them `| None`"
        raise TuneError(f"`{name}`: {str(error).splitlines()[0]}", where, fix) from error
    kind("transform", name)(made)


class _Refused(Exception):
    """What is wrong with a function, and what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what, self.fix = what, fix


def _declared(function: Callable[..., Any], name: str, *, held_out: bool) -> type[Transform]:
    """The dataclass of a function: its keyword parameters as fields."""
    hints, parameters = get_type_hints(function), [*inspect.signature(function).parameters.values()]
    settings = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    before = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not 1 <= len(before) <= 2 or len(before) + len(settings) < len(parameters):
        raise _Refused("it takes a row, and settings behind `*`", f'write `def {name}(row: dict, *, column: str = "text") -> dict:`')
    shapes = _returned(hints.get("return"), name)
    required = [p.name for p in settings if p.default is p.empty]
    doc, about = _documented(function)
    made = dataclasses.make_dataclass(
        "".join(part.title() for part in name.split("_")),
        [(p.name, _type(p, hints), _field(p)) for p in settings],
        bases=(Transform,),
        kw_only=True,
        namespace={
            "__doc__": doc,
            "__module__": function.__module__,
            "field_docs": about,
            "impl": "tuner.data.transforms.own",
            "main": settings[0].name if settings else "",
            "drops": shapes != {dict},
            "held_out": held_out,
            "columns": (),
            "example": f"{name}: {{{', '.join(f'{p}: …' for p in required)}}}" if required else name,
            "function": staticmethod(function),
            "draws": len(before) == 2,
            "returns": shapes,
        },
    )
    made.__module__ = function.__module__
    return made


def _returned(hint: Any, name: str) -> frozenset[type]:
    """What a function says that it returns: {dict}, {dict, NoneType}, {list} …"""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    shapes = frozenset(get_origin(part) or part for part in parts)
    if hint is None or not shapes <= {dict, list, NoneType} or shapes == {NoneType}:
        fix = (
            f"write `def {name}(…) -> dict:` where it shapes rows (held-out rows get it too), `-> dict | None` or `-> list[dict]` where not"
        )
        raise _Refused("it does not say whether it returns a row, perhaps None (the row is dropped), or a list of rows", fix)
    return shapes


def _type(parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    if parameter.name in hints:
        return hints[parameter.name]
    if type(parameter.default) in PLAIN:
        return type(parameter.default)
    raise _Refused(f"the type of `{parameter.name}` is not said", f"write `{parameter.name}: str`, say")


def _field(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    if default is parameter.empty:
        return opt()
    if isinstance(default, list | dict):
        return opt(factory=lambda: type(default)(default))
    return opt(list(default) if isinstance(default, tuple) else default)


def _documented(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """(what the function is for, what its parameters are): the docstring's first paragraph, and its lines `name: text`."""
    text = inspect.getdoc(function) or ""
    found = re.findall(r"^\s*(\w+)(?: \([^)]*\))?: (.+)$", text, re.MULTILINE)
    return text.split("\n\n")[0], {name: about if about.endswith(".") else f"{about}." for name, about in found}
