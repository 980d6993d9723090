"""`tune eval RUN [eval.KEY=value …]`: base against tuned again, with other settings; nothing is trained, nothing published.

tune eval quickstart eval.limit=50 eval.max_new_tokens=128
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

from tuner import gate
from tuner.commands.amend import amend, run_again
from tuner.commands.inventory import take_run
from tuner.commands.request import extend, parse
from tuner.commands.run_ import plan_path
from tuner.errors import TuneError
from tuner.extensions import files_used
from tuner.files import hashes, is_remote
from tuner.inputs import EVAL_KEYS, eval_files
from tuner.launch.local import submit
from tuner.plan import Plan, amended, read_plan
from tuner.registry import Origin
from tuner.render import out, print_json, print_result, shorten
from tuner.runs import read_json
from tuner.schema.recipe import Recipe


def main(args: list[str]) -> int:
    """Plan the run again with the given `eval.*` values and do what its evaluation needs."""
    request = parse(args, flags=("--json", "--extensions", "--trust"), words=1)
    if not request.words:
        raise TuneError("evaluate which run?", "", "`tune eval RUN`; see `tune ls runs`")
    loaded = extend(request)
    plan = _plan(take_run(request), request.overrides, loaded)
    if plan.stage("evaluate").done and not request.json:
        out.print("already measured with these settings:")
        print_result(plan)
        gate.hold(plan)
    elif not plan.stage("evaluate").done:
        path = plan_path(plan)
        plan.write(path)
        code = submit(
            [sys.executable, "-m", "tuner.worker", str(path), "--only", "baseline,evaluate"], output=sys.stderr if request.json else None
        )
        if code:
            return code
    if request.json:
        print_json(read_json(Path(plan.folder) / "eval" / plan.stage("evaluate").key / "metrics.json"))
    return 0


def _plan(folder: Path, overrides: list[str], loaded: list[Origin]) -> Plan:
    """The run's plan, to be measured as asked now. Raises TuneError (code 2) for a run without a result, or when its rows have changed."""
    plan = read_plan(folder / "plan.json")
    _same_code(plan, loaded, folder)
    if not plan.stage("train").done:
        raise TuneError(f"{plan.name} has not finished training", str(folder), "run its recipe again: it goes on where it stopped")
    recipe = amend(plan, overrides, section="eval", folder=folder)
    recipe.eval.enabled = True
    plan = _with_files(plan, recipe)
    for key, files in plan.files.items():
        if any(not is_remote(f) and not Path(f).is_file() for f in files) or hashes(files) != plan.content[key]:
            fix = f"put them back, or run its recipe again: `tune {run_again(folder)}`"
            raise TuneError(f"the files of `{key}` are not what they were when the run was made", ", ".join(files), fix)
    made = amended(plan, recipe, folder=folder, anew=("baseline", "evaluate", "publish"))
    return dataclasses.replace(made, extensions=files_used(recipe))


def _with_files(plan: Plan, recipe: Recipe) -> Plan:
    """The plan with the files that `eval` names now, where that is not what it named before. Raises TuneError (code 2) for none."""
    before = plan.load_recipe().eval
    named = [(e.general, e.lm_eval.tasks if e.lm_eval else []) for e in (before, recipe.eval)]
    if named[0] == named[1]:
        return plan
    found = eval_files(recipe, places=lambda key: [Path.cwd()])
    files = {key: paths for key, paths in plan.files.items() if key not in EVAL_KEYS} | found
    content = {key: sums for key, sums in plan.content.items() if key not in EVAL_KEYS} | {key: hashes(p) for key, p in found.items()}
    return dataclasses.replace(plan, files=files, content=content)


def _same_code(plan: Plan, loaded: list[Origin], folder: Path) -> None:
    """Raises TuneError (code 2) when the run's rows go through a person's own file, and that is not named now, or another than it was."""
    contents = {source.identity for source in loaded}
    for path, sha256 in plan.extensions.items():
        if sha256 in contents:
            continue
        if any(Path(source.path).name == Path(path).name for source in loaded):
            fix = f"put it back (sha256 {sha256}), or run its recipe again"
            raise TuneError(f"{Path(path).name} is not what it was when the run was made", path, fix)
        command = f"tune eval {shlex.quote(shorten(folder))} --extensions {shlex.quote(shorten(path))} --trust"
        raise TuneError("the rows of this run go through code of your own, which is named anew each time", path, f"say `{command}`")
