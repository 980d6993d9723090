"""What `debug=…` watches in a training: a module a mode, each with `watch(run, debug)` -> a callback."""
