"""The other end of `isolated.py`, which starts it: calls one function and hands back what came of it."""

import os
import pickle
import sys
import traceback


def portable(error: Exception) -> Exception:
    """An exception that can be handed to another process, with its traceback as a note."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # it cannot be pickled, or not be made again
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"in a process of its own:\n{''.join(traceback.format_exception(error))}")
    return copy


def answer() -> None:
    """Write (None, the result) or (the exception, None), pickled, to what was the standard output."""
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # what a library prints is no part of the answer
        sys.path[:] = pickle.load(sys.stdin.buffer)
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
            answered = (None, function(*arguments))
        except Exception as error:
            answered = (portable(error), None)
        pickle.dump(answered, out, protocol=5)  # an array goes without a copy of its own


if __name__ == "__main__":
    answer()
