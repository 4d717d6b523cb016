"""Plain text: one file, one document.

In: the bytes of a file. Out: its text, or the reason why it is none. Always: a few bytes that are no UTF-8 become
U+FFFD; what is mostly no UTF-8, or holds NUL bytes, is not text.
"""

REPLACEMENT = "\ufffd"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MOST_REPLACED = 0.3
"""share of the characters; text of another encoding lies above it unless it is mostly ASCII"""
OTHER_CONTENT = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF-": "a PDF document",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip data",
    b"BZh": "bzip2 data",
    b"\xfd7zXZ\x00": "xz data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"PAR1": "Parquet data",
    b"ARROW1": "Arrow data",
    b"\x7fELF": "a program",
    b"\xff\xfe": "UTF-16, not UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8",
}
"""how it begins, and what it then is"""


def other_content(head: bytes) -> str | None:
    """What a file that begins with ``head`` is, where that is not text."""
    for magic, what in OTHER_CONTENT.items():
        if head.startswith(magic):
            return what
    return "binary content (NUL bytes)" if b"\0" in head else None


def is_noise(text: str) -> bool:
    """Whether what ``text`` was read from is mostly no UTF-8."""
    return text.count(REPLACEMENT) > MOST_REPLACED * len(text)


def decode(content: bytes) -> str | None:
    """The text of ``content`` with line ends as in Python; None: it is not text."""
    if other_content(content) is not None:
        return None
    text = content.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "replace")
    if is_noise(text):
        return None
    return text.replace("\r\n", "\n").replace("\r", "\n")
