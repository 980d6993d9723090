"""Plain scripts that the benchmarks run beside ours: what a person would write with the libraries alone."""
