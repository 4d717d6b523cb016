"""A site's setup: shell lines of the user's own, which stand at the top of the job script.

In: the lines. Out: nothing, or an InputError. Always: they are whole by themselves, so that they take nothing of the
script in, and hold no option of sbatch's, which would go past what the script says of the job.
"""

import os
import re
import subprocess
from collections.abc import Sequence

from common.errors import InputError


def check_setup(setup: Sequence[str]) -> None:
    """Asks bash, which runs nothing.

    Raises:
        InputError: an option of sbatch's, or what bash does not take: an open quote, block or here-document.
    """
    text = "\n".join(setup) + "\n"
    option = re.search(r"^#(SBATCH|PBS|BSUB).*", text, re.MULTILINE)
    if option:
        raise InputError(f"site.setup: '{option.group()}' is no shell line; options of the job go to site.options")
    checked = subprocess.run(
        ["bash", "-n"], input=text.encode(), capture_output=True, env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if checked.returncode != 0 or checked.stderr:  # an open here-document is only warned of
        raise InputError(f"site.setup: bash does not take it: {' '.join(checked.stderr.decode().split())}")
