"""Property-based fuzzers: whatever comes in, the answer is a value or one line. `make test-fuzz` runs them for long."""
