"""The picture of the method is drawn as a user draws it, and is never replaced unasked."""

import numpy as np
import pytest
from PIL import Image

from docs.draw_method import Settings, main
from utils_general import InputError


def test_picture_is_written(run_script_file, tmp_path):
    picture = tmp_path / "method.png"
    done = run_script_file("docs/draw_method.py", "--output", picture)
    assert done.stdout.splitlines()[-1] == f"the picture is in {picture}"
    assert [file.name for file in tmp_path.iterdir()] == ["method.png"]
    assert picture.stat().st_size < 400_000
    with Image.open(picture) as image:
        assert image.size == (1800, 1012)
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[[0, -1]] == 255).all()  # nothing reaches over the edge
    assert (pixels[:, [0, -1]] == 255).all()
    coloured = np.ptp(pixels.astype(int), axis=2) > 60  # tissue, noise and labels, not lines and letters
    assert 0.05 < coloured.mean() < 0.3


def test_existing_picture_is_kept(tmp_path):
    picture = tmp_path / "method.png"
    picture.write_bytes(b"mine")
    with pytest.raises(InputError, match="method.png exists; --overwrite replaces it"):
        main(Settings(output=picture))
    assert picture.read_bytes() == b"mine"


def test_folder_is_no_place_for_the_picture(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        main(Settings(output=tmp_path, overwrite=True))
