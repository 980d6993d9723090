"""`tune eval RUN [eval.KEY=value …]`: base against tuned again, with other settings; nothing is trained, nothing published.

tune eval quickstart eval.limit=50 eval.max_new_tokens=128
"""

from __future__ import annotations

import sys
from pathlib import Path

from tuner.commands.request import parse
from tuner.commands.run_ import plan_path
from tuner.errors import TuneError
from tuner.launch.local import submit
from tuner.render import out, print_json, print_result
from tuner.replan import replan
from tuner.runs import find_run, read_json


def main(args: list[str]) -> int:
    """Plan the run again with the given `eval.*` values and do what its evaluation needs."""
    request = parse(args, words=1)
    if not request.words:
        raise TuneError("evaluate which run?", "", "`tune eval RUN`; see `tune ls runs`")
    plan = replan(find_run(request.words[0]), request.overrides, only="eval")
    if not plan.has("evaluate"):
        raise TuneError("this run measures nothing", request.words[0], "add `eval.enabled=true`")
    if not plan.stage("train").done:
        raise TuneError(f"{plan.name} has not finished training", plan.folder, "run its recipe again: it goes on where it stopped")
    if plan.stage("evaluate").done and not request.json:
        out.print("already measured with these settings:")
        print_result(plan)
    elif not plan.stage("evaluate").done:
        path = plan_path(plan)
        plan.write(path)
        code = submit([sys.executable, "-m", "tuner.worker", str(path), "--only", "baseline,evaluate"])
        if code:
            return code
    if request.json:
        print_json(read_json(Path(plan.folder) / "eval" / plan.stage("evaluate").key / "metrics.json"))
    return 0
