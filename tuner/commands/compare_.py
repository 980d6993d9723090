"""`tune compare RUN RUN [RUN …]`: runs beside each other, each against the first, on the terminal and as compare.html.

tune compare quickstart wider                               the page is outputs/compare.html
tune compare quickstart wider longer to=rates.html
tune compare quickstart@3f2a quickstart@91bc --json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.commands.inventory import output_folder
from tuner.commands.request import parse
from tuner.errors import Problem, TuneError
from tuner.measures import as_text, duration
from tuner.plan import read_plan
from tuner.registry import load
from tuner.render import decimals, number, out, print_json, shorten, table
from tuner.runs import find_run

TOLD = {"seconds": "time", "steps": "steps", "tokens": "tokens", "tokens_per_s": "tokens a second", "trainable": "trainable parameters"}


def main(args: list[str]) -> int:
    """Compare runs and say what is better."""
    request = parse(args, words=99)
    to = [o for o in request.overrides if o.startswith("to=")]
    request.overrides = [o for o in request.overrides if o not in to]
    folders = _runs(request.words, output_folder(request))
    found = load("tuner.eval.contrast").contrast(folders)
    page = _page(to[-1]) if to else folders[0].parent.parent / "compare.html"
    load("tuner.eval.contrast_page").write_page(folders, found, page)
    if request.json:
        print_json(found | {"page": str(page)})
        return 0
    _print_metrics(found)
    _print_keys(found)
    _print_training(found)
    for note in found["notes"]:
        out.print(f"\n{note}", markup=False)
    out.print(f"\npage: {shorten(page)}", markup=False)
    return 0


def _page(given: str) -> Path:
    """Where `to=FILE.html` puts the page. Raises TuneError (code 2) for what is no such file."""
    path = Path(given.removeprefix("to=")).expanduser().absolute()
    if path.suffix != ".html" or path.is_dir():
        raise TuneError("the page is an HTML file", given, "add `to=FILE.html`, or leave it out: compare.html in the output folder")
    return path


def _runs(words: list[str], output_dir: Path) -> list[Path]:
    """The runs' folders. Raises TuneError (code 2) with all that cannot be compared."""
    folders: list[Path] = []
    problems: list[Problem] = []
    for word in words:
        try:
            folder = find_run(word, output_dir=output_dir)
        except TuneError as error:
            problems += error.problems
            continue
        plan = read_plan(folder / "plan.json")
        if folder in folders:
            fix = "name two runs; of one name, each by its key: name@key-prefix (`tune ls runs`)"
            problems.append(Problem(what=f"{plan.name}@{folder.name} is named twice", where=word, fix=fix))
        elif not plan.stage("train").done:
            fix = "run its recipe again: it goes on where it stopped"
            problems.append(Problem(what=f"{plan.name} has not finished training", where=shorten(folder), fix=fix))
        elif not plan.has("evaluate") or not plan.stage("evaluate").done:
            problems.append(Problem(what=f"{plan.name} has not been measured", where=shorten(folder), fix=f"`tune eval {shorten(folder)}`"))
        folders.append(folder)
    if len(words) < 2:
        fix = "`tune compare RUN RUN …`; `tune ls runs` lists them"
        problems.append(Problem(what="compare needs two runs or more", where=" ".join(words), fix=fix))
    if problems:
        raise TuneError(problems=problems)
    return folders


def _print_metrics(found: dict[str, Any]) -> None:
    """Each metric: a line for each run; the base once where all have the same."""
    runs = [run["run"] for run in found["runs"]]
    counts = sorted({run["rows"] for run in found["runs"]})
    lines = []
    for name, metric in found["metrics"].items():
        bases = metric["base"]
        shared = found["same_base"] and len(set(bases)) == 1
        for place, (run, tuned, against) in enumerate(zip(runs, metric["tuned"], metric["against_first"], strict=True)):
            base = "" if shared and place else decimals(bases[place])
            change = decimals(against["change"], sign="+") if against else ""
            interval = " … ".join(decimals(bound, sign="+") for bound in against.get("interval", ())) if against else ""
            same_rows = found["runs"][place]["same_rows"]
            verdict = (against["verdict"] if same_rows else "other rows") if against else ""
            lines.append(["" if place else name.removeprefix("field/"), run, base, decimals(tuned), change, interval, verdict])
    title = "held-out rows: " + " / ".join(number(count) for count in counts)
    table([title, "run", "base", "tuned", f"against {runs[0]}", "95 % interval", ""], lines, right=(2, 3, 4, 5), aligned=True)


def _print_keys(found: dict[str, Any]) -> None:
    """Recipe keys that are not the same in all."""
    out.print()
    if not found["keys"]:
        out.print("no recipe key differs")
        return
    lines = [[key, *("–" if value is None else as_text(value) for value in values)] for key, values in found["keys"].items()]
    table(["what differs", *(run["run"] for run in found["runs"])], lines, aligned=True)


def _print_training(found: dict[str, Any]) -> None:
    """Time, steps and speed, where the runs have recorded them."""
    lines = []
    for key, name in TOLD.items():
        values = [run["training"].get(key) for run in found["runs"]]
        if any(values):
            lines.append([name, *("–" if v is None else duration(v) if key == "seconds" else number(round(v)) for v in values)])
    if lines:
        out.print()
        table(["training", *(run["run"] for run in found["runs"])], lines, right=range(1, len(found["runs"]) + 1), aligned=True)
