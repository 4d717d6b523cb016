"""A small model that learns to retrieve, trained from nothing: its text, its corpora, the comparison of kinds."""
