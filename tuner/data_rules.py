"""Rules of the `data:` section, as pure functions like those of checks.py: where rows come from, mixes, streams, steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from tuner.errors import nearest
from tuner.files import has_password
from tuner.schema.base import default_of
from tuner.schema.data import FOR_ALL, Contamination, Data, RowSource, source_key, sources
from tuner.schema.recipe import Recipe
from tuner.schema.transforms.base import Transform
from tuner.schema.transforms.reading import faults, read_step

Finding = tuple[str, str, str]
PLACES = ("path", "id", "url", "url_env")  # where rows may be


def rows(recipe: Recipe) -> Iterator[Finding]:
    """Rows come from one place, and held-out rows exist where something measures on them."""
    data = recipe.data
    for name, source in sources(data).items():
        yield from _place(name, source, [other for other in data.mix if other != name])
    if data.eval_split and data.id is None:
        yield "data.eval_split", "`data.eval_split` needs a Hub dataset (`data.id`)", "for local files set `data.eval_path`"
    if data.eval_rows and (other := next((k for k in ("eval_path", "eval_split", "eval_group") if getattr(data, k)), None)):
        yield "data.eval_rows", f"`data.eval_rows` and `data.{other}` are two ways to hold rows out", "choose one"
    if data.eval_group and data.eval_stratify:
        yield "data.eval_group", "`data.eval_group` and `data.eval_stratify` are two ways to hold rows out", "choose one"
    held_out = _holds_out(data)
    if recipe.eval.enabled and not held_out:
        fix = "set `data.eval_path`, `data.eval_split` or `data.eval_fraction`, or choose `eval=none`"
        yield "eval.enabled", "evaluation has no held-out rows", fix
    if recipe.trainer.eval_steps and not held_out:
        yield "trainer.eval_steps", "`trainer.eval_steps` has no held-out rows", "set `data.eval_path` or `data.eval_fraction`"


def _holds_out(data: Data) -> bool:
    return bool(data.eval_path or data.eval_split or data.eval_rows or data.eval_fraction)


def _meant(name: str, others: list[str]) -> str:
    guess = nearest(name, others)
    return f"did you mean `{guess}`? Else " if guess else ""


def _place(name: str, source: Data, others: list[str]) -> Iterator[Finding]:
    """A source names one place of its rows."""
    named = [key for key in PLACES if getattr(source, key)]
    if len(named) != 1:
        both = f"both {' and '.join(f'`{source_key(name, key)}`' for key in named)} are set"
        fix = "set `path` (files), `id` (Hub dataset) or `url` (database)" + ("" if name else ", or choose one: `tune ls data`")
        none, fix = f"the source `{name}` names no rows" if name else "no training rows are named", _meant(name, others) + fix
        yield (
            (source_key(name, named[1]), both, fix) if named else (source_key(name, "path") if not name else f"data.mix.{name}", none, fix)
        )
    if (source.url or source.url_env) and not source.query:
        fix = "write the query whose result are the rows: `select mail, ticket from t`"
        yield source_key(name, "query"), f"a database needs `{source_key(name, 'query')}`", fix
    if source.url and has_password(source.url):
        fix = "put the URL into an environment variable, and the variable's name into `url_env`"
        yield source_key(name, "url"), f"`{source_key(name, 'url')}` holds a password, and a recipe is kept, shown and published", fix


def mixing(recipe: Recipe) -> Iterator[Finding]:
    """A mix goes by weights or by numbers of rows, and is the only source."""
    data = recipe.data
    if not data.mix:
        for key in ("mix_rows", "mix_temperature"):
            if getattr(data, key) is not None:
                yield f"data.{key}", f"`data.{key}` has no mix", "name the sources: `data.mix: {one: {path: …}, other: {path: …}}`"
        return
    if beside := next((key for key in PLACES if getattr(data, key)), None):
        yield f"data.{beside}", f"`data.{beside}` stands beside `data.mix`", "make it one of the mix's sources"
    for spec in dataclasses.fields(RowSource):
        if spec.name not in (*PLACES, *FOR_ALL) and getattr(data, spec.name) != default_of(spec):
            fix = "say it in each source that it is about"
            yield f"data.{spec.name}", f"`data.{spec.name}` stands beside `data.mix`", fix
    weighted = bool(data.mix_rows or data.mix_temperature) or any(s.weight for s in data.mix.values())
    for name, source in data.mix.items():
        if source.rows and weighted:
            fix = "give each source a `weight` (and the whole `data.mix_rows`), or each its `rows`"
            yield f"data.mix.{name}.rows", f"`data.mix.{name}.rows` contradicts weights", fix


def streaming(recipe: Recipe) -> Iterator[Finding]:
    """A stream has no end, and is never there as a whole."""
    data, trainer = recipe.data, recipe.trainer
    if not data.streaming:
        if recipe.hardware.num_workers:
            what = "`hardware.num_workers` is for streams: prepared rows are mapped from disk, and need nobody to make them"
            yield "hardware.num_workers", what, "remove it, or set `data.streaming=true`"
        return
    if trainer.max_steps is None:
        yield "data.streaming", "a stream has no length: `trainer.max_steps` is not set", "set it: a step takes `trainer.batch_size` rows"
    if _holds_out(data) and not (data.eval_path or data.eval_split or data.eval_rows):
        fix = "set `data.eval_rows=500` (the first rows) or `data.eval_path`, or hold out none: `data.eval_fraction=0 eval=none`"
        yield "data.streaming", "no share of a stream can be held out: its length is not known", fix
    if data.mix and not any(source.weight for source in data.mix.values()):
        fix = "give each source a `weight`: a stream's sources have no known size"
        yield "data.mix", "the sources of a stream are mixed by weights, and there are none", fix
    for key in ("mix_rows", "mix_temperature", "eval_group", "eval_stratify"):
        if getattr(data, key):
            yield f"data.{key}", f"`data.{key}` needs all rows, and `data.streaming` never has them", "remove one of the two"
    for name, source in sources(data).items():
        if source.limit:
            yield source_key(name, "limit"), "a stream has no limit", "use `trainer.max_steps`"
        if source.url or source.url_env:
            yield source_key(name, "url"), "a database cannot be streamed", "write the query's result to a Parquet file"
    for name, mixed in data.mix.items():
        if mixed.rows:
            yield f"data.mix.{name}.rows", "a stream's sources go by `weight`", "give weights"
    for key, step in _steps(data):
        if step is not None and step.whole_set:
            yield key, f"`{step.kind}` needs all rows, and `data.streaming` never has them", "clean the set beforehand, or do not stream"


def _steps(data: Data) -> Iterator[tuple[str, Transform | None]]:
    for prefix, items in [("data", data.transforms), *((f"data.mix.{n}", s.transforms) for n, s in data.mix.items())]:
        yield from ((f"{prefix}.transforms.{i}", read_step(item)[0]) for i, item in enumerate(items))


def transforms(recipe: Recipe) -> Iterator[Finding]:
    """Every step of `data.transforms` exists and takes its arguments."""
    for index, what, fix in faults(recipe.data.transforms):
        yield f"data.transforms.{index}", what, fix
    for name, source in recipe.data.mix.items():
        for index, what, fix in faults(source.transforms):
            yield f"data.mix.{name}.transforms.{index}", what, fix
    if recipe.data.contamination is not Contamination.report and not _holds_out(recipe.data):
        key = "data.contamination"
        yield (
            key,
            f"`{key}={recipe.data.contamination}` has no held-out rows",
            "set `data.eval_path`, `data.eval_split` or `data.eval_fraction`",
        )


RULES = (rows, mixing, streaming, transforms)
