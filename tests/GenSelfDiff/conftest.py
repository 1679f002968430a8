import pytest

from GenSelfDiff.downstream_train import Diff_Seg
from GenSelfDiff.pretrain import SS_diff


@pytest.fixture
def pretraining(tiny_data_set, tmp_path):
    """Settings of a tiny pre-training run: 8 patches, 2 steps an epoch."""
    return SS_diff.Settings(
        data=(tiny_data_set,), run_name=str(tmp_path / "pre"), epochs=3, batch_size=4, dim=8, workers=0,
        initial_weights="pytorch", sample_every=0, device="cpu", learning_rate=1e-3,
    )  # fmt: skip


@pytest.fixture
def finetuning(tiny_data_set, tmp_path):
    """Settings of a tiny fine-tuning run from scratch."""
    return Diff_Seg.Settings(
        data=tiny_data_set, run_name=str(tmp_path / "seg"), pretrained="scratch", epochs=2, batch_size=4, dim=8,
        workers=0, initial_weights="pytorch", device="cpu",
    )  # fmt: skip
