"""What every room needs and none owns: one-line errors, whole-or-nothing files, the command line.

Imports nothing of the project and no heavy library; every other room may import it.
"""
