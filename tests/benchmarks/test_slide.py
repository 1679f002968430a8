import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import slide
from GenSelfDiff import checkpoint
from GenSelfDiff.unet import SegNet
from GenSelfDiff.whole_image.slides import Slide, open_source
from utils_general import InputError


@pytest.fixture
def crops(tmp_path):
    (tmp_path / "crops").mkdir()
    Image.fromarray(np.full((100, 120, 3), (150, 60, 150), np.uint8)).save(tmp_path / "crops" / "a.png")
    return tmp_path / "crops"


def test_a_slide_is_made_and_measured(crops, tmp_path, capfd):
    pytest.importorskip("imagecodecs", reason="imagecodecs, of requirements-bench.txt, writes JPEG tiles")
    torch.manual_seed(0)
    about = {"epoch": 1, "loss": 0.5, "stage": "finetune", "patch_size": 64, "settings": {"input_range": [0.0, 1.0]}}
    about["classes"] = ["background", "nucleus"]
    checkpoint.save(tmp_path / "run.pth", {**about, "model_state_dict": SegNet(8, 2).state_dict()})
    settings = slide.Settings(crops=crops, run=str(tmp_path / "run.pth"), side=1500, islands=2, output=tmp_path / "out")
    slide.main(settings)
    printed = capfd.readouterr().out
    assert "1500 x 1500 pixels, 0.0 megapixels of tissue" in printed and "GiB of memory at most" in printed
    source = open_source(tmp_path / "out" / "slide.tif")
    assert isinstance(source, Slide) and (source.width, source.mpp) == (1500, pytest.approx(0.25))
    assert source.downsamples == pytest.approx((1, 4, 16, 64), rel=0.05)
    whole = source.region(0, 0, 0, 1500, 1500)
    assert np.abs(whole[whole[..., 1] > 200].astype(int) - 243).max() < 40  # JPEG's rim apart, glass is grey
    assert 12_000 <= (whole[..., 1] < 100).sum() <= 2 * 12_000 + 1000


@pytest.mark.parametrize(
    ("overwrite", "message"),
    [(False, "already holds files; --overwrite replaces"), (True, "does not say which of its")],
)
def test_what_is_there_is_not_replaced_unasked_nor_what_others_wrote(crops, tmp_path, overwrite, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slide.tif").write_text("a patient's")
    with pytest.raises(InputError, match=message):
        slide.main(slide.Settings(crops=crops, side=1500, output=tmp_path / "out", overwrite=overwrite))
    assert (tmp_path / "out" / "slide.tif").read_text() == "a patient's"
