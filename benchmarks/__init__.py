"""Side-by-side measurements against peers: `scripts/bench startup`, `scripts/bench quickstart`; each prints a table and writes JSON."""
