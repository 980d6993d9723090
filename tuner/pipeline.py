"""Runs the stages of a plan that are not done: `execute(run)`. Each stage is a function here; what differs by task is asked of the task."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from tuner import beside, gate
from tuner.context import Run
from tuner.data.heads import streamed
from tuner.data.kept import keep
from tuner.data.splits import facts, held_out, split
from tuner.environment import snapshot
from tuner.errors import ENVIRONMENT, GATE, TuneError
from tuner.eval.compare import compare, rewarded
from tuner.eval.scores import Scored, summary
from tuner.hub.preflight import preflight
from tuner.hub.push import NotUploadedError, publish
from tuner.plan import SHARED, Stage
from tuner.progress import clock
from tuner.runs import lock, mark_done, read_json, write_json, write_text
from tuner.schema.adapter import QLora
from tuner.schema.hardware import Distributed
from tuner.state import note
from tuner.summary import summarise
from tuner.tasks import Task, module_of
from tuner.train.callbacks import Interrupted
from tuner.train.fit import fit
from tuner.train.possible import has_places, of_its_kind
from tuner.train.ranks import over_ranks
from tuner.train.tracking import trackers_ready

# How near the loss of a loaded result comes to that before it was saved; a base that was quantised while training is not when measured.
NEAR, QUANTISED_NEAR = 0.01, 0.2


def execute(run: Run, *, only: tuple[str, ...] = ()) -> None:
    """Run what is not done, in order; `only` limits it to some stages. Raises TuneError, or Interrupted after a checkpoint."""
    todo = [s for s in run.plan.stages if not s.done and (not only or s.name in only)]
    names = {s.name for s in todo}
    if "publish" in names and (problems := preflight(run.recipe)):
        raise TuneError(problems=problems, code=ENVIRONMENT)
    task = module_of(run.recipe.task)
    if names - {"publish"}:
        of_its_kind(run)
    if names - set(SHARED):
        write_json(run.folder / "lock.json", snapshot(run.recipe, device=run.device))
    if names & {"baseline", "evaluate"}:
        task.check(run, held_out(run))
        beside.check(run)
    if "train" in names:
        trackers_ready(run.recipe.tracking)
        task.possible(run)
    for stage in todo:
        if stage.name == "publish":
            summarise(run.plan)
            gate.hold(run.plan)
            _publish(run, task, stage)
        elif stage.name in SHARED:
            with lock(Path(stage.folder), wait=partial(_waiting, run, stage)):
                _do(run, task, stage)
        else:
            _do(run, task, stage)
    if "publish" not in names and names & {"train", "evaluate"}:
        summarise(run.plan)


def _publish(run: Run, task: Task, stage: Stage) -> None:
    """A run whose result the Hub does not take is complete all the same: what is wrong is told at its end (`unpublished`)."""
    try:
        _do(run, task, stage)
    except NotUploadedError as error:
        run.kept["unpublished"] = error.problems
        note(run.folder, reason=f"not published: {error.problems[0].what}")


def _waiting(run: Run, stage: Stage, holder: str) -> None:
    run.tell(f"{stage.name}: waiting for {holder}, which is doing the same")


def _do(run: Run, task: Task, stage: Stage) -> None:
    if stage.done:  # another run has made it while we waited
        return
    started = time.perf_counter()
    note(run.folder, stage=stage.name)
    run.tell(f"{stage.name} …")
    result = STAGES[stage.name](run, task)
    seconds = time.perf_counter() - started
    seconds += result.pop("seconds_before", 0.0)
    files = [p for p in map(Path, result.pop("files", ())) if p.is_file()]
    mark_done(Path(stage.folder), stage.name, stage.key, {"seconds": round(seconds, 1), **result}, files=files)
    run.tell(f"{stage.name} done in {clock(seconds)}")


def prepare_stage(run: Run, task: Task) -> dict[str, Any]:
    """Training rows, model-ready and audited."""
    train, _ = split(run)
    folder = run.stage_folder("prepare")
    task.prepare(run, train, folder)
    about = read_json(folder / "data.json") | facts(run)
    if length := about["train"].get("length"):
        has_places(run, length["max"])
    write_json(folder / "data.json", about)
    found = read_json(folder / "audit.json")
    return {"rows": found["rows"], "tokens": found["tokens"], "files": [p for p in folder.iterdir() if p.suffix in (".npy", ".json")]}


def baseline_stage(run: Run, task: Task) -> dict[str, Any]:
    """The base model on the held-out rows."""
    rows, others = _measure(run, task, None)
    if any(not math.isfinite(row.loss_sum) for row in rows):
        what = "the base model's loss on the held-out rows is not a number"
        fix = "its weights are damaged, or `model.dtype` is too narrow for them: try `model.dtype=float32`"
        raise TuneError(what, "model", fix, code=GATE)
    path = run.stage_folder("baseline") / "rows.jsonl"
    write_rows(path, rows)
    files = [path, *keep(held_out(run), path.parent), *beside.keep(others, path.parent)]
    return {"rows": len(rows), "metrics": summary(rows, task.formulas(run)), "files": files}


def train_stage(run: Run, task: Task) -> dict[str, Any]:
    """Training, resumed where it was left; the result in the run folder."""
    prepared = run.stage_folder("prepare")
    for name in ("data.json", "audit.json"):
        write_json(run.folder / name, read_json(prepared / name))
    result = over_ranks(run) if isinstance(run.recipe.hardware, Distributed) else fit(run, task, prepared)
    if "interrupted" in result:
        raise Interrupted(result["interrupted"])
    if run.recipe.data.streaming:
        facts = {"streamed": streamed(run, result["steps"] * run.recipe.trainer.batch_size)}
        write_json(run.folder / "data.json", read_json(run.folder / "data.json") | facts)
    return result


def evaluate_stage(run: Run, task: Task) -> dict[str, Any]:
    """The tuned model as it was saved, on the same rows, compared."""
    base = read_rows(run.stage_folder("baseline") / "rows.jsonl")
    tuned, others = _measure(run, task, run.folder)
    folder = run.stage_folder("evaluate")
    options: dict[str, Any] = {"samples": run.recipe.eval.bootstrap_samples, "seed": run.recipe.seed}
    rewarded(base, tuned)
    judgement = beside.judgement(run, base, tuned)
    found = compare(base, tuned, formulas=task.formulas(run), **options)
    found |= {"judge": judgement} if judgement else {}
    beside.join(found, run.stage_folder("baseline"), others, **options)
    lines: list[dict[str, Any]] = [
        {
            "index": index,
            "prompt": a.prompt,
            "reference": a.reference,
            "base": a.answer,
            "tuned": b.answer,
            "base_scores": a.scores,
            "tuned_scores": b.scores,
            "tuned_loss": [b.loss_sum, b.tokens],
        }
        for index, (a, b) in enumerate(zip(base, tuned, strict=True))
    ]
    for line, a, b in zip(lines, base, tuned, strict=True):
        if a.detail is not None and b.detail is not None:
            line |= {"base_detail": a.detail, "tuned_detail": b.detail}
        if a.samples:
            line |= {"base_samples": a.samples, "tuned_samples": b.samples}
        if a.weighed:  # nothing was written
            both = zip(a.weighed, b.weighed, strict=True)
            line |= {"base": None, "tuned": None, "weighed": [one | {"worth": [one["worth"], other["worth"]]} for one, other in both]}
    write_text(folder / "rows.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_json(folder / "metrics.json", found)
    return {"metrics": found["tuned"], "files": [folder / "rows.jsonl", folder / "metrics.json"]}


def publish_stage(run: Run, task: Task) -> dict[str, Any]:
    """To the Hub, or into a local folder laid out like a Hub repository."""
    return publish(run.plan, run.recipe, progress=run.tell)


STAGES = {"prepare": prepare_stage, "baseline": baseline_stage, "train": train_stage, "evaluate": evaluate_stage, "publish": publish_stage}


def _measure(run: Run, task: Task, tuned: Path | None) -> tuple[list[Scored], beside.Beside]:
    """(held-out rows, what is measured beside them)."""
    model = task.load(run, tuned=tuned)
    if tuned is not None:
        _same(run, task.probe(run, model))
    rows, others = task.score(run, model, held_out(run)), beside.measured(run, model)
    del model
    return rows, others


def _same(run: Run, loaded: float) -> None:
    """Raises TuneError (code 3) when a result, loaded onto a fresh base, is not what training held in memory."""
    stage = run.plan.stage("train")
    trained = read_json(run.folder / "stages" / f"train-{stage.key}.json").get("probe_loss")
    if trained is None:  # trained by an earlier release
        return
    near = QUANTISED_NEAR if isinstance(run.recipe.adapter, QLora) else NEAR
    run.tell(f"the result was loaded: a loss of {loaded:.4f} on training rows, {trained:.4f} before it was saved")
    if not math.isclose(loaded, trained, rel_tol=near, abs_tol=near):
        what = f"the saved result is not what was trained: its loss on training rows is {loaded:.4g}, and was {trained:.4g}"
        fix = "nothing is measured or published; train again (`tune rm` the run), and report it with `tune doctor`"
        raise TuneError(what, str(run.folder), fix, code=GATE)


def write_rows(path: Path, rows: list[Scored]) -> None:
    """Scored rows as JSON lines."""
    write_text(path, "".join(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> list[Scored]:
    """What `write_rows` wrote."""
    with path.open(encoding="utf-8") as stream:  # not splitlines(): a text may hold U+2028, which JSON does not escape
        return [Scored(**json.loads(line)) for line in stream]
