"""A run on paper: sizes, memory, communication and time, and the counters that prove the formulas."""
