"""Tiny data sets at several magnifications."""

import json

from tests.conftest import write_tiny_data_set


def write_levels(root, number=3, **changes):
    """Roots of the same images, 16-pixel patches each, said to be reduced 1, 2, 4, ... times."""
    roots = []
    for level in range(number):
        roots.append(write_tiny_data_set(root / f"x{2**level}", seed=10 * level, **changes))
        file = roots[-1] / "dataset.json"
        about = json.loads(file.read_text()) | {"downscale": float(2**level), "mpp": 0.25 * 2**level}
        file.write_text(json.dumps(about))
    return tuple(roots)
