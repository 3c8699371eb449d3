"""How far a long command has come."""

import sys
from typing import Any


class Progress:
    """A bar on the terminal's stderr, below the lines that go to stdout.

    Without tqdm it is a line. Nothing where stderr is no terminal.
    """

    def __init__(self, total: int, unit: str = "layer"):
        """Starts at 0 of ``total`` units."""
        self._total, self._done = total, 0
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        hidden = not self._terminal
        self._bar = tqdm(total=total, unit=unit, leave=False, disable=hidden)

    def begin(self, what: str) -> None:
        """Says what is being done."""
        if self._bar is not None:
            self._bar.set_description(what)
        elif self._terminal:
            print(f"\r\033[K{self._done}/{self._total} {what}", end="", file=sys.stderr)

    def done(self, line: str) -> None:
        """Counts one more and prints its line."""
        self._done += 1
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
            self._bar.update()
        else:
            self.close()
            print(line)
        sys.stdout.flush()

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
        elif self._terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
