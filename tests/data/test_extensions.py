"""A person's own steps: `extensions.py` beside the recipe, `--extensions FILE --trust`, and those of an installed package."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_transforms import run
from tests.lab import Lab, make_lab
from tuner import registry, worker
from tuner.checks import RULES
from tuner.cli import main
from tuner.data.splits import split
from tuner.errors import TuneError
from tuner.extensions import load_files
from tuner.plan import make_plan, read_plan
from tuner.schema.compose import compose
from tuner.schema.transforms.describe import describe

OWN = '''
import random

from tuner.extend import transform


@transform
def shout(row: dict, *, column: str = "prompt", mark="!", times: int = 1) -> dict:
    """Says it louder.

    column: the column that is changed
    mark: what stands at the end
    """
    row[column] = row[column].upper() + mark * times
    return row


@transform("even")
def only_even(row: dict, *, of: str) -> dict | None:
    """Drops odd rows."""
    return row if int(row[of].split()[-1]) % 2 == 0 else None


@transform
def twice(row: dict) -> list[dict]:
    """Makes two of each."""
    return [row, row | {"completion": "again"}]


@transform(held_out=False)
def noisy(row: dict, rng: random.Random, *, column: str = "prompt") -> dict:
    """Adds a number."""
    return row | {column: f"{row[column]} {rng.randint(0, 10**9)}"}
'''


pytestmark = pytest.mark.usefixtures("own_kinds")


def own(folder: Path, text: str = OWN) -> Path:
    path = folder / "extensions.py"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, text: str = OWN) -> Path:
    path = own(folder, text)
    load_files([str(path)], trust=True)
    return path


def refused(folder: Path, text: str) -> Any:
    with pytest.raises(TuneError) as caught:
        loaded(folder, text)
    assert caught.value.code == 2
    return caught.value.problems[0]


# What a function becomes


def test_keyword_parameters_are_settings_and_the_return_type_says_what_it_may_do(tmp_path: Path) -> None:
    loaded(tmp_path)
    rows = [{"prompt": "a 1", "completion": "x"}, {"prompt": "b 2", "completion": "y"}]
    assert run("shout", rows) == [{"prompt": "A 1!", "completion": "x"}, {"prompt": "B 2!", "completion": "y"}]
    assert run("shout: completion", rows)[0]["completion"] == "X!"
    assert run('shout: {mark: "?", times: 2}', rows)[0]["prompt"] == "A 1??"
    assert run("even: prompt", rows) == [rows[1]]
    assert run("twice", rows) == [rows[0], rows[0] | {"completion": "again"}, rows[1], rows[1] | {"completion": "again"}]
    assert rows[0]["prompt"] == "a 1", "a function may change its row: it is a copy"
    shapes = {name: (describe(name).drops, describe(name).held_out) for name in ("shout", "even", "twice", "noisy")}
    assert shapes == {"shout": (False, True), "even": (True, False), "twice": (True, False), "noisy": (False, False)}
    about = describe("shout")
    assert (about.doc, about.origin, about.arguments[1].doc) == ("Says it louder.", "extensions.py", "what stands at the end.")
    assert [(a.name, a.type, a.default) for a in about.arguments] == [
        ("column", "str", "prompt"),
        ("mark", "str", "!"),
        ("times", "int", 1),
    ]


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ("{shout: {marc: x}}", "`shout` has no argument `marc`"),
        ("{shout: {times: many}}", "`shout.times` takes int, not 'many'"),
        ("even", "`even` needs `of`"),
        ("shoot", "unknown transform `shoot`"),
        ("qqq", "unknown transform `qqq`"),
    ],
)
@pytest.mark.usefixtures("project")
def test_settings_are_checked_while_composing(tmp_path: Path, item: str, what: str) -> None:
    loaded(tmp_path)
    with pytest.raises(TuneError) as caught:
        compose("mine.yaml", [f"data.transforms=[{item}]"], rules=RULES)
    assert caught.value.problems[0].what == what


def test_random_numbers_are_the_row_s_own(tmp_path: Path) -> None:
    loaded(tmp_path)
    a, b, c = ({"prompt": p} for p in "abc")
    first = run("noisy", [a, b, b])
    assert first == run("noisy", [a, b, b])
    assert run("noisy", [c, b, a, b]) == [run("noisy", [c])[0], first[1], first[0], first[2]], "whatever other rows there are"
    assert first[1] != first[2], "two equal rows draw twice"


@pytest.mark.parametrize(
    ("text", "what", "line", "fix"),
    [
        ("x = 1\ndef f(:\n", "the extension cannot be read: invalid syntax", 2, "mend the file"),
        ("x = 1\n\n1 / 0\n", "cannot be loaded: ZeroDivisionError", 3, "mend the file"),
        ("import no_such_library\n", "ModuleNotFoundError", 1, "must be installed"),
        ("import sys\nsys.exit(0)\n", "cannot be loaded: SystemExit", 2, "mend the file"),
        ("a = '\0'\n", "cannot be read", 1, "mend the file"),
        ("@transform\ndef f(row):\n    return row\n", "does not say whether it returns a row", 2, "-> dict"),
        ("@transform\ndef f(row) -> str:\n    return ''\n", "does not say whether it returns a row", 2, "-> dict"),
        ("@transform\ndef f() -> dict:\n    return {}\n", "it takes a row, and settings", 2, "def f(row: dict, *"),
        ("@transform\ndef f(row, **more) -> dict:\n    return {}\n", "it takes a row, and settings", 2, "def f(row: dict, *"),
        ("@transform\ndef f(row, *, a) -> dict:\n    return {}\n", "the type of `a` is not said", 2, "`a: str`"),
        ("@transform\ndef f(row, *, a: set[str]) -> dict:\n    return {}\n", "`f`: ", 2, "list[str]"),
        ("@transform\ndef f(row, *, a: int = 'x') -> dict:\n    return {}\n", "`f`: ", 2, "types of parameters"),
        ("@transform\ndef f(row, *, a: 'Nothing') -> dict:\n    return {}\n", "'Nothing' is not defined", 2, "types of parameters"),
        ("@transform('trim')\ndef f(row) -> dict:\n    return row\n", "there is a transform `trim` already, of tune", 2, "another name"),
        ("@transform('Rm -rf')\ndef f(row) -> dict:\n    return row\n", "cannot be the name", 2, "small letters"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, what: str, line: int, fix: str) -> None:
    decorated = text.startswith("@")
    problem = refused(tmp_path, ("from tuner.extend import transform\n" if decorated else "") + text)
    assert what in problem.what
    assert problem.where == f"{tmp_path / 'extensions.py'}:{line}"
    assert fix in problem.fix


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="cannot read the extension: No such file"):
        load_files([str(tmp_path / "none.py")], trust=True)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("    return row['txet']", "extensions.py:5: KeyError: 'txet'"),
        ("    return helper(row)", "extensions.py:8: TypeError: 'dict' object is not callable"),
        ("    pass", "returned None, and says `-> dict` "),
        ("    return [row]", "returned a list with other things than rows"),
        ("    return 'x'", "returned 'x', and says `-> dict` "),
    ],
)
def test_a_function_that_fails_is_told_with_the_row_and_its_line(tmp_path: Path, body: str, what: str) -> None:
    loaded(
        tmp_path, f"from tuner.extend import transform\n\n@transform\ndef f(row) -> dict:\n{body}\n\ndef helper(row):\n    return row()\n"
    )
    with pytest.raises(TuneError) as caught:
        run("f", [{"text": "a"}])
    assert caught.value.problems[0].where == "rows.jsonl:1"
    assert (what if "list" not in what else "returned") in caught.value.problems[0].what
    assert caught.value.code == 2


# The command line


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path, rows=12, held_out=2)
    for name in ("train", "eval"):
        rows = [{"prompt": f"{name[0]}{n}?", "completion": f'{{"n": {n}}}'} for n in range(12)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own(tmp_path)
    return made


def test_without_trust_nothing_of_the_file_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own(tmp_path, f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    assert main(["ls", "transforms", "--extensions", str(path)]) == 2
    said = capsys.readouterr().err
    assert f"{path} (sha256 " in said
    assert "its code runs with your rights" in said
    assert not (tmp_path / "ran").exists()
    assert main(["ls", "transforms", f"--extensions={path}", "--trust"]) == 0
    assert (tmp_path / "ran").exists()


def test_flags_that_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "transforms", "--extensions"]) == 2
    assert main(["ls", "transforms", "--extensions", "--trust"]) == 2
    assert main(["ls", "transforms", "--trust"]) == 2
    assert main(["rm", "x", "--extensions", "a.py"]) == 2
    said = capsys.readouterr().err
    assert said.count("`--extensions` needs a file") == 2
    assert "none is named" in said
    assert "unknown flag `--extensions`" in said


def test_a_recipe_cannot_name_a_file(project: Path) -> None:
    own(project)
    for line in ("extensions: extensions.py", "data: {extensions: [extensions.py]}", "trust: true"):
        Path("bad.yaml").write_text(f"defaults: [{{recipe: {project}/mine.yaml}}]\n{line}\n", encoding="utf-8")
        with pytest.raises(TuneError, match=r"unknown key `(data\.)?(extensions|trust)`"):
            compose("bad.yaml", [], rules=RULES)


def test_ls_and_explain_say_where_a_step_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--extensions", str(own(tmp_path)), "--trust"]
    assert main(["ls", "transforms", *flags]) == 0
    assert "shout\textensions.py\tSays it louder." in capsys.readouterr().out
    assert main(["ls", "transforms", "--json", *flags]) == 0
    origins = {item["name"]: item["origin"] for item in json.loads(capsys.readouterr().out)}
    assert (origins["shout"], origins["trim"]) == ("extensions.py", "tune")
    assert main(["explain", "transforms.shout", *flags]) == 0
    assert "from          extensions.py" in capsys.readouterr().out


SHOUT, EVEN = "data.transforms=[shout]", "data.transforms=[{even: prompt}]"


def keys(lab: Lab, text: str, *overrides: str) -> dict[str, str]:
    loaded(lab.folder, text)
    return {s.name: s.key for s in lab.plan(*overrides).stages}


def test_the_file_enters_the_keys_where_a_step_of_it_is_used_and_only_there(lab: Lab) -> None:
    changed = OWN.replace("mark * times", "mark * times + mark")
    before, after = keys(lab, OWN, SHOUT), keys(lab, changed, SHOUT)
    assert {n for n in before if before[n] != after[n]} == {"prepare", "baseline", "train", "evaluate", "publish"}
    before, after = keys(lab, OWN, EVEN), keys(lab, changed, EVEN)
    assert {n for n in before if before[n] != after[n]} == {"prepare", "train", "evaluate", "publish"}, "held-out rows do not get it"
    assert keys(lab, OWN, "data.transforms=[trim]") == keys(lab, changed, "data.transforms=[trim]")
    assert lab.plan("data.transforms=[trim]").extensions == {}
    (path, sha256) = next(iter(lab.plan(SHOUT).extensions.items()))
    assert (path, len(sha256)) == (str(lab.folder / "extensions.py"), 64)


def test_a_worker_refuses_a_file_that_has_changed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    loaded(lab.folder)
    path = lab.write_plan(SHOUT)
    own(lab.folder, OWN + "\n# other\n")
    assert worker.main([str(path)]) == 2
    assert "extensions.py has changed since this run was planned" in capsys.readouterr().err
    (lab.folder / "extensions.py").unlink()
    assert worker.main([str(path)]) == 2


@pytest.mark.slow
@pytest.mark.ci
def test_a_run_a_resume_a_push_and_an_evaluation(lab: Lab) -> None:
    recipe = ["recipe=small", SHOUT, "trainer.max_steps=1", "task.max_length=300"]
    flags = ["--extensions", "extensions.py", "--trust"]
    assert "unknown transform `shout`" in lab.tune(*recipe).stderr
    assert lab.tune("check", *recipe, *flags).returncode == 0
    assert "T0?!" in lab.tune("preview", *recipe, *flags).stdout
    done = lab.tune(*recipe, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do" in lab.tune(*recipe, *flags).stdout
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    assert "--extensions extensions.py --trust" in (folder / "recipe.yaml").read_text(encoding="utf-8")
    for verb in ("show", "report", "push"):
        quiet = lab.tune(verb, str(folder))
        assert quiet.returncode == 0, quiet.stderr
    again = lab.tune("eval", str(folder), "eval.limit=1")
    assert again.returncode == 2
    assert f"tune eval {folder}" in again.stderr or "--extensions extensions.py --trust" in again.stderr
    assert lab.tune("eval", str(folder), "eval.limit=1", *flags).returncode == 0
    assert list(read_plan(folder / "plan.json").extensions) == [str(lab.folder / "extensions.py")]
    own(lab.folder, OWN + "# other\n")
    assert "is not what it was" in lab.tune("eval", str(folder), "eval.limit=2", *flags).stderr
    assert "nothing to do" not in lab.tune(*recipe, *flags, "dry_run=true").stdout


# An installed package


class Installed(Distribution):
    """A distribution that is nowhere: `theirs` of some version."""

    def __init__(self, version: str) -> None:
        self._version = version

    def read_text(self, filename: str) -> str | None:
        return f"Metadata-Version: 2.1\nName: theirs\nVersion: {self._version}\n" if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Any:
        raise NotImplementedError


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, module: str = "their_own_steps") -> None:
    point = EntryPoint("theirs", module, "tuner.extensions")
    object.__setattr__(point, "dist", Installed(version))
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])


def test_a_package_s_transform_works_and_its_version_enters_the_key(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "their_own_steps.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(lab.folder))
    found = []
    for version in ("1.0", "1.1"):
        install(lab.folder, monkeypatch, version)
        found.append([{s.name: s.key for s in lab.plan(o).stages} for o in (SHOUT, "data.transforms=[trim]")])
    assert found[0][0]["prepare"] != found[1][0]["prepare"]
    assert found[0][1] == found[1][1], "where no step of it is used, its version changes nothing"
    assert describe("shout").origin == "theirs 1.1"
    train, held_out = split(lab.run(SHOUT))
    assert train[0]["prompt"] == "T0?!"
    assert held_out[0]["prompt"].endswith("!")
    assert lab.plan(SHOUT).extensions == {}


def test_a_package_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(tmp_path, monkeypatch, "2.0", module="no_such_module_at_all")
    with pytest.raises(TuneError, match=r"the extension theirs 2\.0 cannot be loaded: ModuleNotFoundError") as caught:
        registry.load_extensions()
    assert caught.value.code == 4


def test_the_plan_of_before_can_be_read(project: Path) -> None:
    plan = make_plan(compose("mine.yaml", [], rules=RULES))
    plan.write(project / "old.json")
    values = json.loads((project / "old.json").read_text(encoding="utf-8"))
    del values["extensions"]
    (project / "old.json").write_text(json.dumps(values), encoding="utf-8")
    assert read_plan(project / "old.json") == plan
