"""Measuring base against tuned: generation with the serving path, scores a row, comparison with intervals, the report."""
