"""How sbatch itself reads the top of a script, written after src/sbatch/opt.c; the Slurm lab compares the two.

In: a script. Out: the arguments of its `#SBATCH` lines, in order.
"""


def read_directives(script: bytes) -> list[bytes]:
    """Reads until the first line that is neither blank nor a comment."""
    found: list[bytes] = []
    for line in script.split(b"\n")[1:]:
        if line.strip() and not line.startswith(b"#"):
            break
        if line.startswith(b"#SBATCH"):
            found += _arguments(line[len(b"#SBATCH") :])
    return found


def _arguments(line: bytes) -> list[bytes]:
    assert len(line) < 8192, "longer than sbatch's buffer"
    found: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at : at + 1].isspace():
            at += 1
        if at == len(line) or line[at] == ord("#"):
            return found
        word, at = _argument(line, at)
        found.append(word)


def _argument(line: bytes, at: int) -> tuple[bytes, int]:
    """One argument from ``at``, and where it ends: a backslash escapes everywhere, between quotes of both kinds too."""
    word = b""
    quote = b""
    escaped = False
    while at < len(line):
        letter = line[at : at + 1]
        if not (quote or escaped) and (letter.isspace() or letter == b"#"):
            break
        if escaped:
            word, escaped = word + letter, False
        elif letter == b"\\":
            escaped = True
        elif quote and letter == quote:
            quote = b""
        elif not quote and letter in {b"'", b'"'}:
            quote = letter
        else:
            word += letter
        at += 1
    assert not quote, "sbatch: unmatched quote"
    return word, at
