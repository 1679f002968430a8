"""Whether an image is like those that the network was trained for, as far as it can be told without labels."""

from dataclasses import dataclass

import numpy as np

DIFFERENT = 1.2  # factor between resolutions from which on a network may see what it was not trained for
# Square micrometres of the median nucleus of an image: in MoNuSeg's training images it is 6 to 53
USUAL_NUCLEUS = (4.0, 150.0)
ENOUGH = 10  # objects from which on their median says something
HARDLY_ANY = 0.002  # part of what was looked at; nuclei are a tenth to a half of tissue


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in an image."""

    areas: np.ndarray
    """of the objects (n,), square micrometres; not a number where the resolution is unknown"""
    share: float
    """part of what was looked at that is objects"""
    nuclei: bool
    """whether the objects are nuclei, whose size and number are known; glands are of any size"""


def doubts(mpp: float | None, trained: float | None, found: Found, downscale: float = 1.0) -> str | None:
    """What speaks against the results of an image in one line, None for nothing.

    `mpp` is the image's resolution and `trained` that of the training, micrometres a pixel, None where unknown; the
    training's images were reduced `downscale` times to it.
    """
    said = []
    if trained and mpp is None:
        own = trained / downscale
        said.append(f"its resolution is unknown and taken for the training's {own:g} micrometres a pixel")
    elif trained and mpp > trained * DIFFERENT:
        said.append(f"{mpp:g} micrometres a pixel are coarser than the training's {trained:g}, detail is missing")
    if not len(found.areas):
        said.append("no object was found")
    elif found.nuclei and found.share < HARDLY_ANY:
        said.append(f"hardly any object was found, on {found.share:.2%} of what was looked at")
    median = np.median(found.areas) if len(found.areas) >= ENOUGH else np.nan
    if found.nuclei and (median < USUAL_NUCLEUS[0] or median > USUAL_NUCLEUS[1]):
        usual = " to ".join(f"{area:g}" for area in USUAL_NUCLEUS)
        said.append(f"objects of {median:.3g} square micrometres (median) are no usual nuclei, which have {usual}")
    return "; ".join(said) or None
