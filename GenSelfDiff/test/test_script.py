"""Testing a fine-tuned network: all metrics of the paper, the standard ones beside them, pictures and label maps.

    python3 ./GenSelfDiff/test/test_script.py

The paper's metrics are of each patch. The standard ones are of whole images, predicted by the same windows as
segment.py predicts them.
Edit the defaults below, or pass them: `--name value`.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from file_contents import DataSet
from GenSelfDiff import predictor
from GenSelfDiff.evaluation.evaluate import patches_to_test
from GenSelfDiff.networks import METHODS
from GenSelfDiff.predictor import PredictorSettings
from GenSelfDiff.report.results import Method, ReportSettings, run_test
from GenSelfDiff.report.training_record import training_stages
from GenSelfDiff.targets import instance_method
from GenSelfDiff.whole_image.doubts import DIFFERENT
from GenSelfDiff.whole_image.windows import WindowSettings, predict_image, windows_of
from utils_general import RESULTS, SIDE_MULTIPLE, InputError, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(PredictorSettings, WindowSettings, ReportSettings):
    """Test a fine-tuned network on the test patches of a data set."""

    output: Path | None = None
    """folder for the results; results/<run> if not given, results/<name> for a published <name>.pth; _val is added
    with --split val"""


def other_resolution(network: predictor.TrainedPredictor, data_set: DataSet) -> str:
    """That the network was trained at another resolution than it is tested at, in words; "" where it was not."""
    pairs = {
        "at {} micrometres a pixel": (network.mpp, data_set.mpp),
        "on images made {} times smaller": (network.downscale, data_set.downscale),
    }
    words, (trained, tested) = next((words, pair) for words, pair in pairs.items() if None not in pair)
    if 1 / DIFFERENT <= tested / trained <= DIFFERENT:
        return ""
    return f"trained {words.format(f'{trained:g}')}, tested {words.format(f'{tested:g}')}: objects are of another size"


def main(settings: Settings) -> None:
    """Check everything, predict, evaluate, write."""
    settings.check_windows()
    network = predictor.load(settings)
    patches = patches_to_test(settings.data, settings.split)
    size = patches.data_set.patch_size
    if size % SIDE_MULTIPLE:
        raise InputError(
            f"{patches.folder} holds patches of {size} pixels; the network wants multiples of {SIDE_MULTIPLE}"
        )
    windows, stage = windows_of(network, settings), METHODS[network.stage]
    used = instance_method(settings, network.targets, network.instances)
    objects = instance_method(settings, network.targets, patches.data_set.instances)
    print(f"{network.path}: epoch {network.epoch}, validation loss {network.loss:.5f}; on {len(patches)} patches")
    if used != objects:
        print(f"note: objects by {objects}, as the data says; segment.py takes {used} for this network")
    if network.patch_size not in (None, size):
        print(f"note: trained on patches of {network.patch_size} pixels, tested on {size}")
    if doubt := other_resolution(network, patches.data_set):
        print(f"warning: {doubt}")
    method = Method(
        name=network.name,
        predict=network.predict,
        whole=partial(predict_image, network, windows=windows),
        targets=network.targets,
        classes=network.classes,
        about=network.about,
        stages=training_stages(network.path, network.training, stage.training, stage.trained),
    )
    name = network.name + ("_val" if settings.split == "val" else "")
    run_test(settings, settings.output or RESULTS / name, patches, method)


if __name__ == "__main__":
    run_script(main, Settings)
