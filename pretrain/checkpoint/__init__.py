"""What a run leaves behind to go on from: whole or absent, and readable on any topology."""
