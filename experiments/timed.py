"""Work that has to fit into a given time: a clock that goes on over several calls, scripts that are told to stop."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils_general import ROOT, InputError, read_json, write_json

KEPT_EVERY = 5.0  # seconds: more than this of the clock is not lost if the machine goes away


class Record:
    """What a piece of work has done and how long it took, in a file: seconds over all calls, and notes by name."""

    def __init__(self, path: Path):
        self.path = path
        known = read_json(path) if path.is_file() else {}
        self.notes: dict[str, Any] = known.get("notes", {})
        self.earlier = known.get("seconds", 0.0)
        self.started = self.kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall clock spent, in this call and the earlier ones."""
        return self.earlier + time.monotonic() - self.started

    def keep(self) -> None:
        """Write everything."""
        self.kept = time.monotonic()
        write_json(self.path, {"seconds": round(self.seconds, 1), "notes": self.notes})

    def tick(self) -> None:
        """Write now and then."""
        if time.monotonic() - self.kept > KEPT_EVERY:
            self.keep()

    def note(self, name: str, **facts: Any) -> dict[str, Any]:
        """Remember facts under a name, beside those that are there; returns all of them."""
        self.notes[name] = {**self.notes.get(name, {}), **facts}
        self.keep()
        return self.notes[name]


@contextmanager
def stopped_gently() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that what runs inside is told and can save."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_for(record: Record, script: str, *words: object, seconds: float = math.inf) -> bool:
    """One of the project's scripts; after so many seconds it is told to save and to stop. Whether it came to its end.

    Raises `InputError` if it failed; its own last line says why. Whatever ends the caller, the script is told and
    waited for: it runs in a session of its own, so that Ctrl-C reaches it once.
    """
    begin, told = time.monotonic(), False
    sys.stdout.flush()  # before the script writes to the same place
    process = subprocess.Popen([sys.executable, str(ROOT / script), *map(str, words)], start_new_session=True)
    try:
        while process.poll() is None:
            time.sleep(0.1)
            record.tick()
            if not told and time.monotonic() - begin > seconds:
                process.send_signal(signal.SIGINT)
                told = True
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        record.keep()
    if process.returncode and not (told and process.returncode in (130, -signal.SIGINT)):
        raise InputError(f"{script} ended with {process.returncode}; what it said stands above")
    return process.returncode == 0
