"""The command `tune`: `tune recipe=quickstart` runs a recipe, `tune VERB …` does the rest. Each verb is a file of `commands/`."""

from __future__ import annotations

import os
import sys

from tuner.commands import VERBS

FLAGS = {
    "dry_run=true": "print the plan and stop: stages, steps, tokens, parameters, memory, launch command",
    "refresh=true": "look again which commits the Hub revisions stand for",
    "--extensions FILE --trust": "a Python file of your own with steps for `data.transforms`; its code runs with your rights",
    "--json": "print data as JSON, on every verb that prints data",
    "--version": "print the version",
    "--debug": "show the traceback of an error",
}


def help_text() -> str:
    """What `tune --help` prints."""
    lines = [
        "tune — declarative fine-tuning",
        "",
        "  tune recipe=quickstart",
        "  tune recipe=my.yaml trainer.learning_rate=1e-4 dry_run=true",
        "",
    ]
    width = max(len(f"{verb} {args}") for verb, (args, _) in VERBS.items())
    lines += ["verbs:", *(f"  tune {f'{verb} {args}':<{width}}  {text}" for verb, (args, text) in VERBS.items())]
    lines += ["", "flags:", *(f"  {flag:<{width + 5}}  {text}" for flag, text in FLAGS.items())]
    lines += ["", "exit codes: 0 ok · 2 bad recipe or usage · 3 a gate failed · 4 environment · 130 interrupted · 1 our bug"]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(help_text())
        return 0
    if args[0] in ("-V", "--version"):
        from tuner import __version__

        sys.stdout.write(f"tune {__version__}\n")
        return 0
    return dispatch(args, debug=debug)


def dispatch(args: list[str], *, debug: bool) -> int:
    """Run a verb; a TuneError becomes its message and its exit code."""
    from tuner.errors import BUG, INTERRUPTED, TuneError, nearest
    from tuner.registry import load

    verb = args.pop(0) if args[0] in VERBS else "run"
    try:
        if verb == "run" and args and "=" not in args[0] and not args[0].startswith("-"):
            guess = load("tuner.commands.request").command_meant(args) or nearest(args[0], VERBS)
            fix = f"did you mean `tune {guess}`?" if guess else "run a recipe with `tune recipe=NAME`; verbs: `tune --help`"
            raise TuneError(f"unknown verb `{args[0]}`", "", fix)
        if "-h" in args or "--help" in args:
            sys.stdout.write(
                f"tune {verb} {VERBS[verb][0]}\n  {VERBS[verb][1]}\n\n{(load(f'tuner.commands.{verb}_').__doc__ or '').strip()}\n"
            )
            return 0
        code = int(load(f"tuner.commands.{verb}_").main(args))
        sys.stdout.flush()
        return code
    except TuneError as error:
        if debug:
            raise
        from tuner.render import print_error

        print_error(error)
        return error.code
    except KeyboardInterrupt:
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):  # the reader is gone (`tune show … | head -1`), as Python or as rich says it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered would fail when Python ends
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        from tuner.render import print_bug

        print_bug(error)
        return BUG


if __name__ == "__main__":
    sys.exit(main())
