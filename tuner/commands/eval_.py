"""`tune eval RUN [eval.KEY=value …]`: base against tuned again, with other settings; nothing is trained, nothing published.

tune eval quickstart eval.limit=50 eval.max_new_tokens=128
"""

from __future__ import annotations

import sys
from pathlib import Path

from tuner.commands.amend import amend, run_again
from tuner.commands.inventory import take_run
from tuner.commands.request import parse
from tuner.commands.run_ import plan_path
from tuner.errors import TuneError
from tuner.files import hashes, is_remote
from tuner.launch.local import submit
from tuner.plan import Plan, amended, read_plan
from tuner.render import out, print_json, print_result
from tuner.runs import read_json


def main(args: list[str]) -> int:
    """Plan the run again with the given `eval.*` values and do what its evaluation needs."""
    request = parse(args, words=1)
    if not request.words:
        raise TuneError("evaluate which run?", "", "`tune eval RUN`; see `tune ls runs`")
    plan = _plan(take_run(request), request.overrides)
    if plan.stage("evaluate").done and not request.json:
        out.print("already measured with these settings:")
        print_result(plan)
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


def _plan(folder: Path, overrides: list[str]) -> Plan:
    """The run's plan, to be measured as asked now. Raises TuneError (code 2) for a run without a result, or when its rows have changed."""
    plan = read_plan(folder / "plan.json")
    if not plan.stage("train").done:
        raise TuneError(f"{plan.name} has not finished training", str(folder), "run its recipe again: it goes on where it stopped")
    for key, files in plan.files.items():
        if any(not is_remote(f) and not Path(f).is_file() for f in files) or hashes(files) != plan.content[key]:
            fix = f"put them back, or run its recipe again: `tune {run_again(folder)}`"
            raise TuneError(f"the files of `{key}` are not what they were when the run was made", ", ".join(files), fix)
    recipe = amend(plan, overrides, section="eval", folder=folder)
    recipe.eval.enabled = True
    return amended(plan, recipe, folder=folder)
