"""The chain at the paper's size, run at a tiny one: planned by hand-worked times, killed, continued, finished."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import pandas as pd
import pytest

from experiments import paper_size
from experiments.paper_size import Cost, Experiment, Settings
from utils_general import ROOT, InputError, read_json


@pytest.fixture
def settings(tiny_data_set, tmp_path):
    """8 training patches of 16 pixels, 4 held out, in each stage."""
    return Settings(
        data=tiny_data_set, output=tmp_path / "out", dim=8, batch_size=4, pretrain_epochs=20, finetune_epochs=10,
        minutes=10, reserve_minutes=2, precision="float32", device="cpu", workers=0, images=2,
    )  # fmt: skip


@pytest.fixture
def measured(settings, tmp_path):
    """The function that makes an experiment which has measured 1 s an image and no time for a script to start."""

    def make(**changes):
        experiment = Experiment(replace(settings, output=tmp_path / str(changes), **changes))
        experiment.record.note("measured", seconds_an_image=1.0, steps=1, start=0.0, saving=0.0)
        return experiment

    return make


def test_the_cost_of_an_epoch_by_hand():
    """17 patches in batches of 4 are 4 steps; 6 held-out ones cost as much as 2 that are trained on."""
    cost = Cost(17, 6, 4)
    assert (cost.steps, cost.images) == (4, 18.0)
    assert (Cost(3, 0, 4).steps, Cost(3, 0, 4).images) == (1, 3.0)


@pytest.mark.parametrize(("training_seconds", "epochs"), [(480, 20), (188, 10), (30, 1)])
def test_schedules_are_shortened_by_one_factor(measured, capsys, training_seconds, epochs):
    """An epoch takes 8 + 4/3 s, the whole chain 20 + 2 x 10 epochs of it: 373.3 s."""
    experiment = measured(minutes=2 + training_seconds / 60)
    chain = experiment.chains[0]
    whole = [experiment.whole(chain, stage) for stage in experiment.stages(chain)]
    assert sum(whole) == pytest.approx(40 * (8 + 4 / 3))
    assert experiment.planned(chain, "pre-training", whole) == epochs
    assert f"{epochs} of 20 epochs ({epochs / 20:.0%}) fit" in capsys.readouterr().out


def test_time_for_no_epoch_is_said(measured):
    experiment = measured(minutes=2.1)
    chain = experiment.chains[0]
    whole = [experiment.whole(chain, stage) for stage in experiment.stages(chain)]
    with pytest.raises(InputError, match="paper, pre-training: not one epoch fits; --minutes [34] or more is needed"):
        experiment.planned(chain, "pre-training", whole)


def test_a_second_recipe_only_where_it_is_worth_while(measured):
    """5 % of the schedules, and an epoch of each at least: here a tenth, 37.3 s."""
    rich, poor = measured(minutes=2 + 40 / 60), measured(minutes=2 + 34 / 60)
    assert rich.takes_part(rich.chains[1]) and not poor.takes_part(poor.chains[1])
    assert poor.takes_part(poor.chains[0])
    assert poor.record.notes["improved"]["left_out"].startswith("there is time for 9.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 12}, "--dim is 12"),
        ({"recipes": ()}, "--recipes names no recipe"),
        ({"reserve_minutes": 10.0}, "--reserve-minutes 10 leaves nothing of --minutes 10"),
        ({"minutes": 0.0}, "--minutes is 0.0"),
        ({"data": Path("/nowhere")}, "folder /nowhere does not exist"),
        ({"precision": "tf32"}, "--precision tf32 is one of GPUs"),
    ],
)
def test_settings_that_cannot_work(settings, changes, message):
    with pytest.raises(InputError, match=message):
        paper_size.main(replace(settings, **changes))
    assert not settings.output.exists()


def test_what_is_shown_fits(tmp_path):
    """Tables before pictures, small before large; no weights, no single images, no label maps."""
    for name, size in {
        "table.csv": 10, "runs/a/history.csv": 20, "runs/a/best.pth": 5, "results/a/pictures/x_panel.png": 70,
        "results/a/examples/best.png": 30, "results/a/label_maps/x.png": 1, "results/generated/image_1.png": 1,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    said = paper_size.collect(tmp_path, tmp_path / "shown", most=100)
    shown = {str(f.relative_to(tmp_path / "shown")) for f in (tmp_path / "shown").rglob("*") if f.is_file()}
    assert shown == {"table.csv", "runs/a/history.csv", "results/a/examples/best.png"}
    assert said.startswith("1 larger files")


def killed(folder):
    """What a test leaves that was killed by the system, or with its machine."""
    (folder / ".unfinished-abc" / "label_maps").mkdir(parents=True)
    (folder / ".unfinished-abc" / "images.csv").touch()
    (folder / ".in_use").write_text("process 1 on another machine")


def test_a_killed_test_is_done_again_and_is_no_row(measured, monkeypatch):
    experiment, started = measured(), []
    monkeypatch.setattr(paper_size, "run_for", lambda _, script, *__: started.append(script))
    chain = experiment.chains[0]
    killed(results := experiment._results(chain, "from scratch"))
    assert experiment.write_tables().count("nothing yet") == 2  # no run, no tested method
    experiment._test_chain(chain)
    scripts = ["test_script.py", "test_script.py", "baselines.py", "compare.py", "image_generation.py"]
    assert [script.rpartition("/")[2] for script in started] == scripts
    (results / "summary.json").touch()
    experiment._test_chain(chain)
    assert [script.rpartition("/")[2] for script in started[5:]] == scripts[1:-1]


def options(settings):
    words = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is not None and not isinstance(value, bool):  # switches are off
            words += [f"--{field.name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def test_killed_and_continued_it_ends_with_the_table(settings, forked, capsys):
    """The measurement and the first pre-training are interrupted, a test and a comparison were killed; both networks
    are fine-tuned for as many epochs."""
    settings = replace(settings, recipes=("paper",), finetune_epochs=4, pretrain_epochs=3, minutes=100)
    command = [sys.executable, ROOT / "experiments" / "paper_size.py", *options(settings)]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL) as process:
        while not (settings.output / "runs" / "paper_pre-training" / "last.pth").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 130
    before = read_json(settings.output / "record.json")
    assert before["seconds"] > 1 and "measured" in before["notes"]
    for name in ("paper_from_scratch", "paper_compare"):
        killed(settings.output / "results" / name)
    paper_size.main(settings)
    said = capsys.readouterr().out
    assert "3 of 3 epochs" not in said  # planned in the first call
    assert "4 of 4 epochs (100%) fit" in said
    after = read_json(settings.output / "record.json")
    assert after["seconds"] > before["seconds"] and after["notes"]["measured"] == before["notes"]["measured"]
    runs = pd.read_csv(settings.output / "runs.csv").set_index("stage")
    assert runs.epochs.to_dict() == {"pre-training": 3, "from scratch": 4, "pre-trained": 4}
    assert (runs.share == 1).all() and runs["best validation loss"].notna().all()
    table = pd.read_csv(settings.output / "table.csv")
    assert table.method.tolist() == ["otsu", "from scratch", "pre-trained"] and (table["test images"] == 2).all()
    shown = settings.output / "shown"
    assert (shown / "table.md").is_file() and (shown / "results/paper_generated/contact_sheet.png").is_file()
    assert not list(shown.rglob("*.pth")) and not (settings.output / "runs" / "measure_a_step").exists()
    assert table["share of pre-training"].tolist()[2] == 1 and table["share of fine-tuning"].notna().sum() == 2
    times = {f: f.stat().st_mtime_ns for f in (settings.output / "runs").rglob("*.pth")}
    paper_size.main(settings)  # all is there: nothing is trained again
    assert {f: f.stat().st_mtime_ns for f in (settings.output / "runs").rglob("*.pth")} == times
    with pytest.raises(InputError, match=r"holds an experiment with another dim \(8, now 16\)"):
        paper_size.main(replace(settings, dim=16))
