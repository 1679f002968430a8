"""What speaks against results, by hand-worked cases."""

import numpy as np
import pytest

from GenSelfDiff.whole_image.doubts import Found, doubts


def found(area=30.0, number=20, share=0.2, nuclei=True):
    return Found(areas=np.full(number, area), share=share, nuclei=nuclei)


@pytest.mark.parametrize(
    ("mpp", "trained", "what", "said"),
    [
        (0.25, 0.25, found(), None),
        (0.1, 0.25, found(), None),  # finer is made coarser, nothing is missing
        (0.29, 0.25, found(), None),
        (0.31, 0.25, found(), "0.31 micrometres a pixel are coarser than the training's 0.25, detail is missing"),
        (None, 0.25, found(), "its resolution is unknown and taken for the training's 0.25 micrometres a pixel"),
        (None, None, found(np.nan), None),
        (0.25, 0.25, found(400), "objects of 400 square micrometres (median) are no usual nuclei, which have 4 to 150"),
        (0.25, 0.25, found(3.9), "objects of 3.9 square micrometres (median) are no usual nuclei, which have 4 to 150"),
        (0.25, 0.25, found(400, number=9), None),  # of so few the median says little
        (0.25, 0.25, found(5e4, nuclei=False), None),  # glands are of any size
        (0.25, 0.25, found(share=0.001), "hardly any object was found, on 0.10% of what was looked at"),
        (0.25, 0.25, found(share=0.001, nuclei=False), None),
        (0.25, None, found(number=0, share=0, nuclei=False), "no object was found"),
        (None, 0.5, found(number=0, share=0), "the training's 0.5 micrometres a pixel; no object was found"),
    ],
)  # fmt: skip
def test_what_speaks_against_results(mpp, trained, what, said):
    doubt = doubts(mpp, trained, what)
    assert doubt is None if said is None else said in doubt


def test_an_image_of_unknown_resolution_is_taken_for_one_before_it_was_reduced():
    """As `scale_of` takes it: GlaS, 0.62 micrometres a pixel, reduced four times."""
    assert "the training's 0.62 micrometres a pixel" in doubts(None, 2.48, found(), downscale=4.0)
    assert "coarser than the training's 2.48" in doubts(3.5, 2.48, found(), downscale=4.0)
