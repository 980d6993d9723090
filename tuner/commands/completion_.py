"""`eval "$(tune completion bash)"` completes verbs, recipes, sections, options and keys in this shell; so do `zsh` and `fish`.

To keep it: `tune completion bash >> ~/.bashrc`, `tune completion zsh >> ~/.zshrc` (after compinit),
`tune completion fish > ~/.config/fish/completions/tune.fish`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tuner.commands import VERBS
from tuner.errors import TuneError, nearest
from tuner.registry import load_extensions
from tuner.runs import list_runs
from tuner.schema.documents import list_options, list_recipes
from tuner.schema.recipe import GROUPS
from tuner.schema.transforms.describe import names
from tuner.schema.values import type_name
from tuner.schema.walk import all_keys

# The scripts hand over the line up to the cursor and get whole words back: `tune completion --words "tune recipe=qu"`.
# Bash cuts words at `=` and `:`, so what stands before the last of them is taken off again.
BASH = """\
_tune() {
  local word="${COMP_WORDS[COMP_CWORD]}" line="${COMP_LINE:0:COMP_POINT}" reply whole
  whole="${line##*[[:space:]]}"
  [ "$word" = "=" ] && word=""
  COMPREPLY=()
  while IFS= read -r reply; do
    [ -n "$reply" ] && COMPREPLY+=("${reply#"${whole%"$word"}"}")
  done < <(tune completion --words "$line" 2>/dev/null)
  case "${COMPREPLY[0]-}" in *[=.]) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _tune tune
"""
ZSH = """\
_tune() {
  local -a replies
  replies=("${(@f)$(tune completion --words "$LBUFFER" 2>/dev/null)}")
  if [[ -z "${replies[1]}" ]]; then
    _files
  else
    compadd -S '' -- ${(M)replies:#*[=.]}
    compadd -- ${replies:#*[=.]}
  fi
}
compdef _tune tune
"""
FISH = """\
complete -c tune -f -a '(tune completion --words (commandline -cp | string collect))'
complete -c tune -F -n '__fish_seen_subcommand_from cp schema'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
SHELL_FLAGS = ("--json", "--extensions", "--trust", "--debug", "--help")
TAKES_RUN = ("show", "eval", "report", "push", "try", "rm")
TAKES_RUNS = ("compare", "merge")
TAKES_RECIPE = ("run", "show", "check")


def main(args: list[str]) -> int:
    """Print a shell's script, or (for the scripts) the words that can follow a line."""
    if args[:1] == ["--words"] and len(args) == 2:
        load_extensions()
        sys.stdout.write("".join(f"{word}\n" for word in complete(args[1])))
        return 0
    if flag := next((a for a in args if a.startswith("-")), ""):
        raise TuneError(f"unknown flag `{flag}`", flag, "this verb takes no flags")
    shell = args[0] if len(args) == 1 else ""
    if shell not in SCRIPTS:
        guess = nearest(shell, SCRIPTS)
        fix = f"did you mean `{guess}`?" if guess else 'say which: eval "$(tune completion bash)", or zsh, or fish'
        raise TuneError(f"no completion for `{shell}`" if shell else "which shell?", shell, fix)
    sys.stdout.write(SCRIPTS[shell])
    return 0


def complete(line: str) -> list[str]:
    """Words that can stand where the line ends."""
    words = line.split()
    current = "" if line[-1:].isspace() or len(words) < 2 else words.pop()
    return sorted({c for c in _candidates(words[1:], current) if c.startswith(current)})


def _candidates(before: list[str], current: str) -> list[str]:
    key, equals, _ = current.partition("=")
    verb = before[0] if before and before[0] in VERBS else "run"
    if equals:
        return [f"{key}={value}" for value in _values(key)]
    if current.startswith("-"):
        return [*SHELL_FLAGS]
    found = [*VERBS] if not before else []
    found += _words(verb, before)
    if verb in TAKES_RECIPE and (current or any(w.startswith("recipe=") for w in before)):  # an empty line shows the verbs, not every key
        found += [f"{g}=" for g in GROUPS] + [f"{k}=" for k in all_keys() if "." not in k] + _keys(current)
        found += ["dry_run="]
    return found + (["recipe="] if verb in TAKES_RECIPE else [])


def _words(verb: str, before: list[str]) -> list[str]:
    """Plain words of a verb."""
    if verb == "ls":
        return ["recipes", "runs", "transforms", "metrics", "rewards", *GROUPS]
    if verb == "explain":
        return [*GROUPS, *all_keys(), *(f"transforms.{name}" for name in names())]
    if verb == "cp" and len(before) == 1:
        return [*list_recipes()]
    if verb == "completion":
        return [*SCRIPTS]
    if verb in TAKES_RUNS or (verb in TAKES_RUN and len(before) == 1):
        return sorted({run.parent.name for run in list_runs(Path("outputs"))})
    return []


def _keys(current: str) -> list[str]:
    """`trainer.` first, then the keys behind it."""
    if "." not in current:
        return [f"{g}." for g in GROUPS]
    return [f"{k}=" for k in all_keys()]


def _values(key: str) -> list[str]:
    if key == "recipe":
        return [*list_recipes()]
    if key in GROUPS:
        return [*list_options(key)]
    if key in ("dry_run", "refresh"):
        return ["true", "false"]
    if key not in all_keys():
        return []
    words = type_name(*all_keys()[key])
    return ["true", "false"] if words == "bool" else words.split(" | ") if " | " in words and "str" not in words else []
