"""What keeps a run going by itself: signals, watchdog, spike rule, stragglers, and the record of every start."""
