"""The mark at the end of a report by which ``cml comment update`` finds it again.

Byte-compatible with upstream v0.20.6 (``src/watermark.js``), so that reports posted by either are updated by
both.
"""

from __future__ import annotations

import re

_IMAGE = "https://cml.dev/watermark.png"

#: The beginning of every watermark's title.
TITLE = "CML watermark"

#: Characters that upstream escapes in the title; a forge may give them back either way.
_ESCAPED = "_*[<"


class Watermark:
    """One report's mark.

    :param label: free text from ``--watermark-title``; ``{workflow}`` and ``{run}`` are replaced, once each.
    :param sha: the commit the report is about; ignored when looking for an earlier report.
    """

    def __init__(self, *, label: str = "", workflow: str = "", run: str = "", sha: str = "") -> None:
        label = label.replace("{workflow}", workflow, 1).replace("{run}", run, 1)
        self._plain = f"{TITLE} {label}".strip()
        self._sha = sha

    @property
    def title(self) -> str:
        return "".join("\\" + letter if letter in _ESCAPED else letter for letter in self._plain)

    def __str__(self) -> str:
        url = f"{_IMAGE}#{self._sha}" if self._sha else _IMAGE
        return f'![]({url} "{self.title}")'

    def is_in(self, text: str) -> bool:
        """Tell whether the text has a mark of the same title, for any commit."""
        title = "".join(
            r"\\?" + re.escape(letter) if letter in _ESCAPED else re.escape(letter) for letter in self._plain
        )
        pattern = rf'!\[\]\({re.escape(_IMAGE)}(?:#[0-9a-fA-F]+)? "{title}"\)'
        return re.search(pattern, text) is not None
