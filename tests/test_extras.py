"""With nothing installed that is optional: a run of `sft` from rows to card, and every task either loads or says what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import environ, make_lab

# Packages of pyproject's optional dependencies, by the names that are imported.
NAMES = """PIL apollo_torch bitsandbytes deepspeed diffusers fastokens ftfy galore_torch gguf jiwer jsonschema liger_kernel py3langid
pycocotools python_stretch rensa rouge_score sacrebleu schedulefree sentence_transformers seqeval soundfile soxr sqlalchemy
tensorboard torchao torchvision trackio trl wandb"""
OPTIONAL = NAMES.split()
WITHOUT = f"import sys\nfor name in {OPTIONAL}:\n    sys.modules[name] = None\n"
LOADS = """
import json
from tuner.errors import TuneError
from tuner.registry import kinds
from tuner.tasks import module_of
import tuner.schema.recipe

def loaded(cls):
    try:
        module_of(cls())
        return ""
    except TuneError as error:
        return error.problems[0].fix

print(json.dumps({name: loaded(cls) for name, cls in kinds("task").items()}))
"""
NEED = {"classify_image": "vision", "detect": "detect", "segment": "vision", "vlm": "vision", "diffusion": "diffusion"}


def alone(folder: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Python code in a process that has none of the optional packages."""
    argv = [sys.executable, "-W", "ignore", "-c", WITHOUT + code, *args]
    return subprocess.run(argv, cwd=folder, env=environ(), capture_output=True, text=True, timeout=240, check=False)


def test_a_run_needs_nothing_that_is_optional(tmp_path: Path) -> None:
    make_lab(tmp_path)
    options = ("recipe=small", "launcher=inline", "trainer.max_steps=2", "eval.limit=2")
    done = alone(tmp_path, "from tuner.cli import main\nsys.exit(main(sys.argv[1:]))", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "outputs" / "small").iterdir()
    assert (run / "README.md").is_file()
    assert (run / "report.html").is_file()


def test_a_task_loads_or_says_what_to_install(tmp_path: Path) -> None:
    done = alone(tmp_path, LOADS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: fix for name, fix in found.items() if fix} == {name: f"pip install 'tuner[{extra}]'" for name, extra in NEED.items()}


@pytest.mark.parametrize("name", OPTIONAL)
def test_what_is_left_out_is_optional(name: str) -> None:
    """A name here that is none of pyproject's would make the tests above weaker than they look."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    distributions = {"PIL": "pillow", "torchvision": "", "sqlalchemy": "SQLAlchemy"}
    assert distributions.get(name, name.replace("_", "-")) in text.partition("[project.optional-dependencies]")[2]
