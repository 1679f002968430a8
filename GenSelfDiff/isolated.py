"""What may kill the process that does it, done in a process of its own.

Readers written in C, as SciPy's of MATLAB files and OpenSlide, crash on some damaged files, and take the script with
them: no exception tells which file it was. `isolated` makes one line of such a death.

The other process is started anew, not forked, so that threads, CUDA and a data loader's workers do not matter to it. It
imports nothing but what the function needs: 0.1 s for Python itself.
"""

import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils_general import InputError


def isolated(function: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """What `function(*arguments)` returns, called in a process of its own; what it raises is raised here.

    `function` stands at the top of a module that is no script; arguments and result can be pickled. Raises `InputError`
    where the process dies: "cannot read <what>: its reader crashed (SIGSEGV)"; `what` names the file for a user.
    """
    with tempfile.TemporaryFile() as call, tempfile.TemporaryFile() as said:
        pickle.dump(sys.path, call)
        pickle.dump((function, arguments), call)
        call.seek(0)
        command = [sys.executable, str(Path(__file__).with_name("isolated_child.py"))]
        process = subprocess.Popen(command, stdin=call, stdout=subprocess.PIPE, stderr=said)
        try:
            error, result = pickle.load(process.stdout)
        except (EOFError, pickle.UnpicklingError):  # it died before all was written
            code = process.wait()
            said.seek(0)
            raise InputError(f"cannot read {what}: its reader {death(code, said.read())}") from None
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    if error is not None:
        raise error
    return result


def death(code: int, said: bytes) -> str:
    """How a process ended, by its return code and what it wrote last."""
    if code == -signal.SIGKILL:
        return "was killed (SIGKILL): is there enough memory?"
    names = {int(number): number.name for number in signal.Signals}
    lines = said.decode(errors="replace").strip().splitlines() or ["is the file damaged?"]
    return f"{f'stopped with code {code}' if code >= 0 else f'crashed ({names.get(-code, -code)})'}: {lines[-1][:200]}"
