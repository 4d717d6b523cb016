"""The parts of a report about runs: what they measured, how it is drawn, how it is written as HTML."""
