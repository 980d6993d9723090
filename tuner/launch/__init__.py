"""Launchers: a pure `command(plan_path) -> argv` that dry_run prints and tests compare, and `submit(argv, output=None) -> exit code`."""
