"""A program that loads something once and then runs it as often as it is asked to; worker.py describes the protocol."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any


class EngineError(Exception):
    """An engine cannot load or run a model; the text is the engine's own."""


class Process:
    """The program; `said` is its first line."""

    def __init__(self, command: list[str | Path]) -> None:
        self.stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        self.said: dict[str, Any] = self.answer()

    def answer(self) -> Any:
        """The next line, as JSON."""
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.stderr.seek(0)
            complaint = self.stderr.read().decode(errors="replace").strip().splitlines()
            raise EngineError(complaint[-1][:300] if complaint else f"exit {self.process.returncode}")
        return json.loads(line)

    def run(self, count: int) -> list[float]:
        """Milliseconds of `count` runs. One more comes first, untimed: others have emptied the caches since the last round."""
        print(count + 1, file=self.process.stdin, flush=True)
        return self.answer()[1:]

    def close(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.stderr.close()
