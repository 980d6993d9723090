"""`tune ls`: recipes and sections; `tune ls recipes`, `tune ls runs`, `tune ls adapter` (the options of a section), `tune ls transforms`.

`tune ls metrics` and `tune ls rewards` say what `eval.metrics` and `task.rewards` may name.
Runs are looked up in ./outputs; `tune ls runs output_dir=elsewhere` looks there.
"""

from __future__ import annotations

import dataclasses

from tuner.commands.inventory import RunInfo, human_age, human_size, inspect_run, output_folder
from tuner.commands.request import Request, extend, parse
from tuner.commands.transforms import list_transforms
from tuner.errors import TuneError, nearest
from tuner.registry import kinds, origin
from tuner.render import out, print_json, shorten, table
from tuner.runs import list_runs
from tuner.schema.describe import describe_option, sections
from tuner.schema.documents import list_options, list_recipes, read
from tuner.schema.eval import METRICS
from tuner.schema.recipe import DEFAULTS, GROUPS
from tuner.schema.rewarded import REWARDS

SCORES = {"metric": (METRICS, "eval: {metrics: [exact_match, f1]}"), "reward": (REWARDS, "task: {rewards: {numeric: 1}}")}


def main(args: list[str]) -> int:
    """List what there is."""
    request = parse(args, flags=("--json", "--extensions", "--trust"), words=1)
    extend(request)
    word = request.words[0] if request.words else ""
    listings = {"": _overview, "recipes": _recipes, "recipe": _recipes, "runs": _runs, "run": _runs}
    if word.removesuffix("s") == "transform":
        list_transforms(json=request.json)
    elif (scored := word.removesuffix("s")) in SCORES:
        _scores(scored, request)
    elif word in listings:
        listings[word](request)
    elif (group := word if word in GROUPS else word.removesuffix("s")) in GROUPS:  # `models` reads as well as `model`
        _options(group, request)
    else:
        known = ["recipes", "runs", "transforms", *(f"{name}s" for name in SCORES), *GROUPS]
        guess = nearest(word, known)
        raise TuneError(
            f"nothing to list called `{word}`", word, f"did you mean `tune ls {guess}`?" if guess else f"say one of: {', '.join(known)}"
        )
    return 0


def _scores(name: str, request: Request) -> None:
    """Metrics or rewards with what each gives, and those of a person's own file."""
    ours, key = SCORES[name]
    rows = [[n, does, "tune"] for n, does in ours.items()]
    rows += [[n, (cls.__doc__ or "").strip(), found.name if (found := origin(cls)) else ""] for n, cls in kinds(name).items()]
    if request.json:
        print_json([dict(zip(("name", "doc", "origin"), row, strict=True)) for row in rows])
        return
    table([name, "what it gives", "from"], rows)
    out.print(f"\nuse: `{key}`", markup=False)


def recipe_rows() -> list[tuple[str, str, str]]:
    """(name, description, file) of each recipe; one that cannot be read is listed with what is wrong with it."""
    rows = []
    for name, path in list_recipes().items():
        try:
            rows.append((name, read(path).summary, str(path)))
        except TuneError as error:
            problem = error.problems[0]
            rows.append((name, f"broken: {problem.what} ({problem.where})", str(path)))
    return rows


def _overview(request: Request) -> None:
    counts = {g: len(list_options(g)) for g in GROUPS}
    if request.json:
        about = {g: {"options": counts[g], "default": DEFAULTS[g], "doc": sections()[g]} for g in GROUPS}
        print_json({"recipes": [_recipe_json(r) for r in recipe_rows()], "sections": about})
        return
    table(["recipe", "what it does"], [[name, text] for name, text, _ in recipe_rows()], title="recipes: tune recipe=NAME")
    out.print()
    rows = [[g, str(counts[g]), DEFAULTS[g], sections()[g]] for g in GROUPS]
    table(["section", "options", "default", "what it says"], rows, title="sections: tune ls SECTION", right=[1])
    out.print("\nmore: `tune ls runs`, `tune ls adapter`, `tune ls transforms`, `tune explain trainer`")


def _recipe_json(row: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("name", "doc", "file"), row, strict=True))


def _recipes(request: Request) -> None:
    if request.json:
        print_json([_recipe_json(r) for r in recipe_rows()])
    else:
        table(["recipe", "what it does", "file"], [[name, text, shorten(path)] for name, text, path in recipe_rows()])


def _options(group: str, request: Request) -> None:
    options = {o: describe_option(group, o) for o in list_options(group)}
    if request.json:
        print_json([{"name": o, "doc": doc, "default": o == DEFAULTS[group]} for o, doc in options.items()])
        return
    table([group, "what it is"], [[f"{o} (default)" if o == DEFAULTS[group] else o, doc] for o, doc in options.items()])
    out.print(f"\nchoose: `{group}=NAME` on the command line, `- {group}: NAME` in a recipe's defaults; keys: `tune explain {group}`")


def _runs(request: Request) -> None:
    folder = output_folder(request)
    runs = [inspect_run(run) for run in reversed(list_runs(folder))]
    if request.json:
        print_json([dataclasses.asdict(r) for r in runs])
        return
    if not runs:
        out.print(f"no runs in {folder}: start one with `tune recipe=quickstart`", markup=False)
        return
    rows = []
    for run in runs:
        change = f"{run.metric} {_digits(run.base)} -> {_digits(run.tuned)}" if run.metric else "–"
        rows.append([run.run, _state(run), change, human_age(run.age_s), human_size(run.size_bytes)])
    table(["run", "state", "base -> tuned", "age", "size"], rows, right=[3, 4])


def _state(run: RunInfo) -> str:
    return f"{run.state} {run.step}/{run.steps}" if run.steps and run.state in ("running", "resume", "killed", "failed") else run.state


def _digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
