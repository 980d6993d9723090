"""Rows as the model sees them: `report(run, row=7000, as_json=False)` prints one, trained text told apart, and the set's statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from tuner.context import Run
from tuner.data import contamination
from tuner.data.audit import overlong, sizes, taught
from tuner.data.load import Rows
from tuner.data.splits import left_out, split
from tuner.data.transform import told
from tuner.errors import OK, TuneError
from tuner.pipeline import execute
from tuner.render import number, out, print_error, print_json, shorten
from tuner.runs import read_json
from tuner.tasks import module_of
from tuner.train.possible import of_its_kind

FIRST_ROWS = 3
BAR = 40  # characters of the longest bar


def report(run: Run, *, row: int, as_json: bool) -> int:
    """Print row `row` (counted from 1; 0: the first few), then what the prepare stage counted. Returns the exit code of what it found."""
    of_its_kind(run)
    task = module_of(run.recipe.task)
    rows, _ = split(run)
    if row > len(rows):
        raise TuneError(f"there is no row {row}", "--row", f"the training rows are {len(rows)}")
    shown = [task.show(run, rows, index) for index in ([row - 1] if row else _first(rows))]
    error = None
    try:
        execute(run, only=("prepare",))
    except TuneError as caught:  # a gate: the rows are shown all the same
        error = caught
    folder = Path(run.stage_folder("prepare"))
    found = {n: read_json(folder / f"{n}.json") if (folder / f"{n}.json").is_file() else None for n in ("data", "audit")}
    if as_json:
        print_json({"rows": shown, **found})
    else:
        for one in shown:
            _print_row(one)
        if found["data"] and found["audit"]:
            _print_statistics(found["data"], found["audit"])
    if error:
        print_error(error)
        return error.code
    return OK


def _first(rows: Rows) -> list[int]:
    """The first few rows; of a mix the first of each source."""
    if len(set(rows.part)) > 1:
        return [rows.part.index(part) for part in sorted(set(rows.part))]
    return list(range(min(FIRST_ROWS, len(rows))))


def _print_row(shown: dict[str, Any]) -> None:
    """The place of a row, then its text: what is trained in green (in double brackets where there is no colour)."""
    trained = f", {shown['supervised_tokens']} trained" if shown["supervised_tokens"] is not None else ""
    facts = "" if shown["tokens"] is None else f"{shown['tokens']} tokens{trained}" + (", cut" if shown["truncated"] else "")
    source = f"{shown['source']}: " if shown.get("source") else ""
    out.print(f"[bold]{source}{shorten(shown['place'])}[/]  {facts}", highlight=False)
    print_segments(shown["segments"])


def print_segments(segments: list[dict[str, Any]]) -> None:
    """Text with what is trained told apart."""
    for part in segments:
        if out.is_terminal:
            out.print(part["text"], end="", markup=False, highlight=False, style="green" if part["trained"] else "dim")
        else:
            out.print(f"[[{part['text']}]]" if part["trained"] else part["text"], end="", markup=False, highlight=False)
    out.print()


def _print_statistics(data: dict[str, Any], audit: dict[str, Any]) -> None:
    train, length = data["train"], data["train"]["length"]
    table = Table(show_header=False, box=None, pad_edge=False)
    trained = f", of which {audit['share']:.1%} are trained" if "share" in audit else ""  # of labels and prompts there is none
    lines = {
        "layout": data["source"]["shape"],
        "rows": f"{'the first ' if 'streaming' in data else ''}{number(train['rows'])} to train, {number(data['eval']['rows'])} held out",
        "tokens": number(train["tokens"]) + trained,
        "length": f"{sizes(train)}, 95 % within {length['p95']}",
        "maximum": overlong(audit),
        "untrained": f"{number(audit['rows_fully_masked'])} rows have nothing to train and are left out",
        "duplicates": f"{number(train['duplicates'])} rows are the same as an earlier one",
    }
    if "pixels" in train:
        lines["length"] = sizes(train)
        del lines["tokens"], lines["maximum"]
    if "taught" in audit:
        lines["captions"] = taught(audit)
        del lines["untrained"]
    if "prompts" in audit:
        lines["tokens"] += ", of prompts: their answers are sampled"
        del lines["untrained"]
    if "labels" in audit:
        lines["labels"] = taught(audit).partition(": ")[2] + f" ({audit['labels_of']}s)"
    if silent := audit.get("rows_without_answer"):
        lines["empty"] = f"{number(silent)} rows have an empty answer, which teaches only to stop"
    if (tokenizer := data.get("tokenizer", "huggingface")) != "huggingface":
        lines["tokenizer"] = f"{tokenizer}, which writes the same ids"
    if packs := data.get("packs"):
        lines["packs"] = f"{number(packs['rows'])} of {packs['capacity']} tokens, {packs['fill']:.1%} full"
    for number_of, step in enumerate(data.get("transforms", ()), 1):
        lines[f"step {number_of}"] = f"{step['source']}: {told(step)}" if step.get("source") else told(step)
    if (overlap := data.get("contamination")) and overlap["rows"]:
        lines["held out"] = contamination.told(overlap)
    if skipped := data.get("skipped"):
        lines["skipped"] = f"{left_out(skipped['rows'])}; the first: {skipped['first'][0]}"
    for name, text in lines.items():
        table.add_row(name, text)
    out.print(table)
    if sources := data.get("sources"):
        out.print()
        _print_sources(sources, {one["name"]: one["read"] for one in data.get("mix", ())})
    if "pixels" not in train:
        _print_lengths(train)


def _print_lengths(train: dict[str, Any]) -> None:
    """A bar for each step of lengths."""
    out.print("\ntokens a row")
    most = max(count for _, count in train["histogram"])
    for bound, count in train["histogram"]:
        out.print(f"{f'≤ {number(bound)}':>9}  {'█' * round(BAR * count / most):<{BAR}}  {number(count)}", highlight=False)


def _print_sources(sources: list[dict[str, Any]], read: dict[str, int]) -> None:
    """What each source of a mix gives."""
    heads = ["source", "rows", "of", "share", "tokens", "share", "trained", "cut", "twice", "mean", "p95", "lengths"]
    table = Table(*heads, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for one in sources:
        cells = [one["name"], number(one["rows"]), number(read[one["name"]]) if read else "–"]
        if one["rows"]:
            length = one["length"]
            cells += [f"{one['row_share']:.1%}", number(one["tokens"]), f"{one['token_share']:.1%}", f"{one['trained_share']:.1%}"]
            cells += [number(one["truncated"]), number(one["duplicates"]), f"{length['mean']:.0f}", number(length["p95"])]
            cells.append(sparkline([count for _, count in one["histogram"]]))
        table.add_row(*cells)
    out.print(table)


def sparkline(counts: list[int]) -> str:
    """A histogram in one line: `▁▃█▅▂`; a bar that holds any is never invisible."""
    most = max(counts)
    return "".join("▁▂▃▄▅▆▇█"[max(0, -(-8 * count // most) - 1)] if count else " " for count in counts)
