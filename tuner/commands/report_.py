"""`tune report RUN`: write report.html anew from the run's files and say where it is. RUN is a folder, a name, or name@key-prefix."""

from __future__ import annotations

from tuner.commands.inventory import output_folder
from tuner.commands.request import parse
from tuner.errors import TuneError
from tuner.registry import load
from tuner.render import out, print_json, shorten
from tuner.runs import find_run


def main(args: list[str]) -> int:
    """Write a run's report."""
    request = parse(args, words=1)
    if not request.words:
        raise TuneError("which run?", "", "say `tune report RUN`; `tune ls runs` lists them")
    folder = find_run(request.words[0], output_dir=output_folder(request))
    path = load("tuner.eval.report").write_report(folder)
    if request.json:
        print_json({"report": str(path)})
    else:
        out.print(shorten(path), markup=False)
    return 0
