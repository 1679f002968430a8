"""Labelled images at their own size, kept beside patches of smaller ones: what tests measure on."""

from pathlib import Path
from typing import NamedTuple

FOLDER = "native"


class NativeFiles(NamedTuple):
    """Of one source image."""

    image: Path
    classes: Path
    instances: Path


def native_files(folder: Path, source: str) -> NativeFiles:
    """Where they are in a folder of patches."""
    return NativeFiles(*(folder / FOLDER / f"{source}_{kind}.png" for kind in NativeFiles._fields))
