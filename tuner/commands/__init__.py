"""One file a verb (`ls_.py` is `tune ls`), each with `main(args) -> exit code`, imported when used."""

# verb -> (arguments, what it does). One line each: this table is `tune --help`, and it is printed without importing anything.
VERBS = {
    "run": ("recipe=R [key=value …]", "run a recipe (the word `run` may be left out)"),
    "ls": (
        "[recipes|runs|transforms|metrics|rewards|SECTION]",
        "list recipes, runs, transforms …, or the options of a section",
    ),
    "show": ("recipe=R [key=value …]", "the resolved recipe, each value with its origin"),
    "explain": ("[KEY|transforms.NAME]", "what a recipe key means, its type, default and range"),
    "cp": ("RECIPE FILE", "copy a recipe to start your own"),
    "import": ("FILE [--out FILE] [--num-devices N]", "a recipe from an axolotl, LLaMA-Factory or TRL configuration, line by line"),
    "check": ("recipe=R [key=value …]", "all that can be known before training, loss-mask audit included"),
    "preview": ("recipe=R [--row N] [key=value …]", "rows as the model sees them, what is trained told apart"),
    "plan": ("memory recipe=R [key=value …]", "peak memory by strategy, micro-batch and length, and what fits the device"),
    "eval": ("RUN [key=value …]", "measure a run again, base against tuned"),
    "report": ("RUN", "write report.html anew and say where it is"),
    "compare": ("RUN RUN …", "runs beside each other: metrics, what differs in their recipes, time"),
    "push": ("RUN [hub.repo_id=owner/name]", "publish a run"),
    "try": ("RUN|MODEL [PROMPT]", "chat with a model, or with base and tuned side by side"),
    "merge": ("RUN RUN … to=FOLDER", "several LoRA adapters of one base into one, by weight, TIES or DARE"),
    "rm": ("RUN", "delete a run"),
    "cache": ("ls|rm NAME", "prepared rows and base measurements that runs share: list, delete"),
    "gc": ("[--yes]", "delete what no run needs: old checkpoints, orphaned caches"),
    "doctor": ("", "versions, devices, disk and Hub, with a fix for each finding"),
    "schema": ("[FILE]", "JSON Schema of a recipe, for editors"),
    "completion": ("bash|zsh|fish", 'shell completion: eval "$(tune completion bash)"'),
}
