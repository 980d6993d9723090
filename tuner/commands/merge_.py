"""`tune merge RUN|FOLDER RUN|FOLDER … to=FOLDER`: several LoRA adapters of one base into one, loaded again and compared before it is kept.

tune merge french german to=both                            half of each update, exactly; the ranks add up
tune merge french german method=ties weights=[1,0.7] density=0.3 to=both

methods: cat (default), linear, svd, ties, dare_linear, dare_ties, magnitude_prune   (density: share of numbers kept, for the last four)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tuner.commands.request import parse
from tuner.errors import ENVIRONMENT, TuneError, nearest
from tuner.registry import load
from tuner.render import out, print_json, shorten
from tuner.runs import find_run

METHODS = ("cat", "linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune")
PRUNING = METHODS[3:]
EXAMPLES = {"weights": "as `weights=[0.5,0.5]`", "density": "as `density=0.5`", "seed": "as `seed=1`"}
SETTINGS = ("method", "weights", "density", "seed", "to", "output_dir")


def main(args: list[str]) -> int:
    """Read the command, merge, print what came out."""
    request = parse(args, words=99)
    job = _job(request.words, dict(o.partition("=")[::2] for o in request.overrides))
    load("tuner.worker_env").quiet()
    mixture = load("tuner.model.mixture")
    facts = mixture.mix(mixture.Job(**job), progress=(lambda text: None) if request.json else out.print)
    if request.json:
        print_json(facts)
        return 0
    for name, parent in facts["parents"].items():
        distance = f"{parent['distance']:.3f} of its own size away"
        out.print(f"{name}: weight {parent['weight']:g}, rank {parent['rank']}; the result is {distance}", markup=False)
    out.print(f"rank {facts['rank']}, loaded again: logits differ by {facts['reloaded']:.1e} at most", markup=False)
    out.print(f"wrote {shorten(job['target'])}", markup=False)
    return 0


def _job(words: list[str], given: dict[str, str]) -> dict[str, Any]:
    """The fields of `tuner.model.mixture.Job`."""
    for key in given:
        if key not in SETTINGS:
            guess = nearest(key, SETTINGS)
            raise TuneError(
                f"unknown setting `{key}`", f"{key}=…", f"did you mean `{guess}`?" if guess else f"settings: {', '.join(SETTINGS)}"
            )
    if len(words) < 2:
        raise TuneError("merge needs two adapters or more", "", "`tune merge RUN|FOLDER RUN|FOLDER … to=FOLDER`")
    if "to" not in given:
        raise TuneError("where should the result go?", "", "add `to=FOLDER`")
    method = given.get("method", "cat")
    if method not in METHODS:
        raise TuneError(f"unknown method `{method}`", f"method={method}", f"methods: {', '.join(METHODS)}")
    target = _target(given["to"])
    folders = [_folder(word, Path(given.get("output_dir", "outputs"))) for word in words]
    weights = _numbers("weights", given["weights"], len(words)) if "weights" in given else [1 / len(words)] * len(words)
    density = _numbers("density", given["density"], 1)[0] if "density" in given else None
    if method in PRUNING and density is None:
        raise TuneError(f"`{method}` leaves numbers out: how many are kept?", f"method={method}", "add `density=0.5`, say")
    if density is not None and (method not in PRUNING or not 0 < density <= 1):
        what = f"`{method}` keeps every number" if method not in PRUNING else "density is a share above 0, at most 1"
        raise TuneError(what, f"density={given['density']}", f"it is for {', '.join(PRUNING)}")
    seed = _numbers("seed", given.get("seed", "0"), 1)[0]
    if not (0 <= seed < 2**32 and seed == int(seed)):
        raise TuneError("`seed` is a whole number from 0 on", f"seed={given['seed']}", EXAMPLES["seed"])
    facts = {"folders": folders, "names": words, "weights": weights, "method": method, "density": density}
    return facts | {"seed": int(seed), "target": target}


def _target(text: str) -> Path:
    """Where the result goes: a folder that is not there yet."""
    target = Path(text).expanduser().absolute()
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return target
    except OSError as error:
        raise TuneError(f"cannot look there: {error.strerror}", f"to={text}", "choose another folder", code=ENVIRONMENT) from error
    raise TuneError(f"it is already there: {shorten(target)}", f"to={text}", "choose another name; merge overwrites nothing")


def _numbers(name: str, text: str, count: int) -> list[float]:
    try:
        found = [float(part) for part in text.strip("[]() ").split(",")]
    except ValueError as error:
        raise TuneError(f"`{name}` is made of numbers", f"{name}={text}", EXAMPLES[name]) from error
    if not all(map(math.isfinite, found)):
        raise TuneError(f"`{name}` is made of finite numbers", f"{name}={text}", EXAMPLES[name])
    if len(found) != count:
        raise TuneError(f"`{name}` has {len(found)} numbers for {count}", f"{name}={text}", "one for each adapter")
    return found


def _folder(word: str, output_dir: Path) -> Path:
    """A folder with an adapter, or the run of that name."""
    folder = Path(word).expanduser()
    folder = folder if (folder / "adapter_config.json").is_file() else find_run(word.removeprefix("run:"), output_dir=output_dir)
    if not (folder / "adapter_config.json").is_file():
        raise TuneError(f"there is no adapter in {shorten(folder)}", word, "only adapters can be merged with each other")
    return folder
