import pytest

from GenSelfDiff import checkpoint
from GenSelfDiff.report.training_record import training_stages
from GenSelfDiff.unet import DiffusionNet, SegNet
from tests.conftest import HOSTILE
from tests.GenSelfDiff.conftest import history
from utils_general import write_json


@pytest.fixture
def runs(tmp_path):
    """A pre-training run and a fine-tuning run from it, as far as their folders are read here."""
    for name, network in (("pre", DiffusionNet(8)), ("seg", SegNet(8, 2))):
        checkpoint.save(
            tmp_path / name / "best.pth", {"epoch": 3, "loss": 0.5, "model_state_dict": network.state_dict()}
        )
        history(3).to_csv(tmp_path / name / "history.csv", index=False)
        write_json(tmp_path / name / "settings.json", {"pretrained": str(tmp_path / "pre"), "device": name})
    return tmp_path


SETTINGS = {"pretrained": "scratch", "batch_size": 8}


def test_both_stages(runs):
    first, second = training_stages(runs / "seg" / "best.pth", SETTINGS)
    assert (first.name, first.run, first.settings["device"]) == ("pre-training", "pre", "pre")
    assert (second.name, second.run, second.settings["device"]) == ("fine-tuning", "seg", "seg")
    assert len(first.history) == len(second.history) == 3


def test_a_checkpoint_alone(runs):
    """What lies beside a file of another name need not be its own."""
    alone = runs / "seg" / "given.pth"
    alone.touch()
    (stage,) = training_stages(alone, SETTINGS)
    assert (stage.run, stage.history, stage.settings) == ("given", None, SETTINGS)
    assert training_stages(alone, SETTINGS, "self-supervision")[0].name == "self-supervision"
    (stage,) = training_stages(alone, {})  # a published one
    assert stage.settings == {}


def test_a_pretraining_that_has_gone(runs):
    (runs / "pre" / "best.pth").unlink()
    assert [stage.name for stage in training_stages(runs / "seg" / "best.pth", SETTINGS)] == ["fine-tuning"]
    (runs / "seg" / "settings.json").unlink()
    assert training_stages(runs / "seg" / "best.pth", SETTINGS)[0].settings == SETTINGS


def test_settings_that_no_run_wrote_are_left_out(runs, capsys):
    (runs / "seg" / "settings.json").write_text("[]")
    assert training_stages(runs / "seg" / "best.pth", SETTINGS)[0].settings == SETTINGS
    told = capsys.readouterr().out
    assert (
        told
        == f"note: {runs}/seg/settings.json is not what a run writes: it holds a list; the report goes without it\n"
    )
    for value in HOSTILE:
        try:
            write_json(runs / "seg" / "settings.json", {"pretrained": value})
        except ValueError:  # Python writes no number of 400 digits
            continue
        assert training_stages(runs / "seg" / "best.pth", SETTINGS)[-1].run == "seg"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read as a table"),
        ("epoch,other\n1,2\n", "wants a row an epoch"),
        ("epoch,train_loss,seconds\n", "wants a row"),
    ],
)
def test_a_history_that_cannot_be_read(runs, capsys, content, said):
    (runs / "seg" / "history.csv").write_text(content)
    assert training_stages(runs / "seg" / "best.pth", SETTINGS)[1].history is None
    told = capsys.readouterr().out
    assert told.startswith(f"note: {runs}/seg/history.csv {said}") and told.count("\n") == 1
