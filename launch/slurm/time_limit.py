"""A job's time limit as sbatch writes it.

In: text such as 90, 24:00:00 or 7-00. Out: seconds, or an InputError.
Always: leaves room for the warning before the limit, or the job would be warned as it starts, for ever.
"""

import re

from common.errors import InputError

ENDLESS = {"unlimited", "infinite", "0", "-1"}
WARNED_EARLY_SECONDS = 60
"""Slurm may warn this much before it was asked to"""
FORMS = (
    r"(?P<minutes>\d+)(:(?P<seconds>\d+))?",
    r"(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)",
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>\d+)(:(?P<seconds>\d+))?)?",
)
UNITS = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}


def limit_seconds(text: str) -> int | None:
    """The seconds that ``text`` stands for; None: no limit.

    Raises:
        InputError: sbatch would not take it.
    """
    if text.lower() in ENDLESS:
        return None
    found = next((match for form in FORMS if len(text) < 20 and (match := re.fullmatch(form, text, re.ASCII))), None)
    if found is None:
        raise InputError(
            f"site.time_limit: takes MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, DAYS-HOURS:MINUTES, "
            f"DAYS-HOURS:MINUTES:SECONDS or UNLIMITED, not {text!r}"
        )
    return sum(UNITS[unit] * int(number or 0) for unit, number in found.groupdict().items())


def check_limit(text: str, signal_seconds: int) -> None:
    """Refuses a limit that sbatch does not take, or in which a job would have no time to train."""
    seconds = limit_seconds(text)
    if seconds is not None and seconds <= signal_seconds + WARNED_EARLY_SECONDS:
        raise InputError(
            f"site.time_limit: {text} is {seconds} s, and site.signal_seconds warns the job {signal_seconds} s before "
            f"its end (Slurm up to {WARNED_EARLY_SECONDS} s earlier): it would be requeued without having trained"
        )
