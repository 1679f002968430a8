"""Images read in a process of their own, so that what crashes there stops one image and not the script.

OpenSlide and the libraries below it end the whole process on some damaged files, in the middle of a slide, too; and a
memory-mapped file on a full disk does the same. The other process opens the images and hands over regions; where it
dies, the image has failed with one clear line, and the next image gets a new process.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import signal
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

import numpy as np

from GenSelfDiff.isolated import death
from GenSelfDiff.isolated_child import portable
from GenSelfDiff.whole_image.slides import Source, open_source
from utils_general import InputError

PATIENCE = 3600.0  # seconds for one answer; a large image on a slow disk takes minutes to be unpacked
FACTS = ("width", "height", "mpp", "downsamples", "note")  # of a source, which the other process tells at its opening


class ReadElsewhere(Source):
    """An image that a `Reader` has open."""

    def __init__(self, reader: "Reader", path: Path, facts: dict[str, Any], level_sizes: list[tuple[int, int]]):
        self.reader, self.path, self.level_sizes = reader, path, level_sizes
        for name in FACTS:
            setattr(self, name, facts[name])

    def level_size(self, level: int) -> tuple[int, int]:
        """See `Source`."""
        return self.level_sizes[level]

    def region(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See `Source`."""
        return self.reader.ask((level, left, top, width, height), self.path)

    def close(self) -> None:
        """See `Source`."""
        self.reader.let_go()


class Reader:
    """Opens images, one at a time, in a process of its own.

    That process is forked: it is there at once, and it uses neither PyTorch nor the GPU. Make the first one before CUDA
    is set up. It ends with this one, also where this one is killed.
    """

    def __init__(self):
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("fork")
        self.said = tempfile.TemporaryFile()  # noqa: SIM115, open as long as the process lives
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.connection, theirs, self.said), daemon=True)
        self.process.start()
        theirs.close()  # so that its death is seen as the end of what it says

    def open(self, path: Path) -> ReadElsewhere:
        """As `slides.open_source`; `InputError` also where the other process dies of the image."""
        if not self.process.is_alive():
            self.close()
            self._start()
        return ReadElsewhere(self, path, *self.ask(path, path))

    def ask(self, question: Any, path: Path) -> Any:
        """The other process's answer to a path that it is to open, or to a region that it is to read."""
        try:
            self.connection.send(question)
            if not self.connection.poll(PATIENCE):
                self.process.kill()
                raise InputError(f"cannot read image {path}: its reader gave no answer in {PATIENCE:g} seconds")
            error, answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.said.seek(0)
            how = death(self.process.exitcode, self.said.read())
            raise InputError(f"cannot read image {path}: its reader {how}") from None
        if error is not None:
            raise error
        return answer

    def let_go(self) -> None:
        """Close the image that is open."""
        with contextlib.suppress(OSError, EOFError):  # where the other process is dead, so is the image
            self.connection.send(None)
            self.connection.recv()

    def close(self) -> None:
        """End the other process."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.said.close()


def _serve(parents: Connection, connection: Connection, said: IO[bytes]) -> None:
    """In the other process: answer with (None, answer) or (exception, None) until the parent is gone."""
    parents.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    faulthandler.disable()  # how it died is said in one line
    os.dup2(said.fileno(), 1)
    os.dup2(said.fileno(), 2)
    with contextlib.suppress(OSError):  # where memory runs out, this process is the one to be ended
        Path("/proc/self/oom_score_adj").write_text("1000")
    source = None
    while True:
        try:
            question = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            if isinstance(question, tuple):
                answer = None, source.region(*question)
            else:
                if source is not None:
                    source.close()
                source = None if question is None else open_source(question)
                answer = None, None if source is None else _facts(source)
        except Exception as error:
            answer = portable(error), None
        connection.send(answer)


def _facts(source: Source) -> tuple[dict[str, Any], list[tuple[int, int]]]:
    sizes = [source.level_size(level) for level in range(len(source.downsamples))]
    return {name: getattr(source, name) for name in FACTS}, sizes
