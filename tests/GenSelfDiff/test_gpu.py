"""The same scripts on a GPU; skipped where there is none."""

import pandas as pd
import pytest
import torch

import image_generation
from GenSelfDiff.data import to_input
from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.pretrain import SS_diff

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pretraining_generation_and_finetuning(tiny_data_set, tmp_path, precision):
    small = {"dim": 8, "batch_size": 4, "workers": 1, "initial_weights": "pytorch", "epochs": 2, "precision": precision}
    run = str(tmp_path / "pre")
    SS_diff.main(SS_diff.Settings(data=(tiny_data_set,), run_name=run, timesteps=20, sample_every=2, **small))
    assert pd.read_csv(tmp_path / "pre" / "history.csv").val_loss.notna().all()
    image_generation.main(
        image_generation.Settings(pretrained=run, data=(tiny_data_set,), output=tmp_path / "images", count=2)
    )
    tuned = str(tmp_path / "seg")
    Diff_Seg.main(Diff_Seg.Settings(data=tiny_data_set, run_name=tuned, pretrained=run, **small))
    assert pd.read_csv(tmp_path / "seg" / "history.csv").val_loss.notna().all()


def test_input_has_the_bits_that_it_has_on_a_cpu():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(-1, -1, -1, 3)
    for input_range in ((-1.0, 1.0), (0.0, 1.0), (-0.3, 0.7)):
        assert torch.equal(to_input(values.cuda(), input_range).cpu(), to_input(values, input_range))
