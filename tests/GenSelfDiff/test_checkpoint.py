import errno
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from GenSelfDiff import checkpoint, networks, unet_checkpoint
from GenSelfDiff.unet import DiffusionNet, SegNet
from tests.conftest import HOSTILE, damaged, read_or_refuse
from utils_general import InputError

CPU = torch.device("cpu")


def published(path, model, **more):
    """A checkpoint as the released code wrote it: its loss is a NumPy scalar."""
    content = {"epoch": 84, "loss": np.float64(0.02807), "model_state_dict": model.state_dict(), **more}
    torch.save(content, path)
    return path


def test_published_checkpoint_loads_unchanged(tmp_path):
    model = DiffusionNet(8)
    loaded, content = unet_checkpoint.load_diffusion(published(tmp_path / "a.pth", model), CPU)
    assert content["loss"] == pytest.approx(0.02807) and content["epoch"] == 84
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_published_checkpoint_of_an_old_numpy(tmp_path):
    """NumPy 1 pickled its scalars under numpy.core: the name is rewritten in the file, of the same length or not."""
    buffer = io.BytesIO()
    torch.save({"epoch": 1, "loss": np.float32(0.5), "model_state_dict": DiffusionNet(8).state_dict()}, buffer,
               _use_new_zipfile_serialization=False)  # fmt: skip
    data = buffer.getvalue()
    assert b"numpy._core.multiarray" in data
    (tmp_path / "old.pth").write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert checkpoint.load(tmp_path / "old.pth")["loss"] == 0.5


def test_published_segmentation_checkpoint_gets_names_and_range(tmp_path):
    model, content = networks.load_segmentation(published(tmp_path / "a.pth", SegNet(8, 4)), CPU)
    assert content["classes"] == ["background", "class 1", "class 2", "class 3"]
    assert content["settings"]["input_range"] == [0.0, 1.0]
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_a_published_segmentation_network_is_told_step_0(tmp_path):
    model, _ = networks.load_segmentation(published(tmp_path / "a.pth", SegNet(8, 2)), CPU)
    assert model.timestep == 0


def test_a_published_segmentation_network_is_none_of_pretraining(tmp_path):
    """It names no stage: its two or four classes tell."""
    for classes in (2, 4):
        path = published(tmp_path / f"{classes}.pth", SegNet(8, classes))
        with pytest.raises(InputError, match="is of a segmentation network; one of pre-training is needed"):
            networks.load_start(path)


def test_a_parameter_too_many_is_named(tmp_path):
    state = {**DiffusionNet(8).state_dict(), "net.extra": torch.zeros(1)}
    checkpoint.save(tmp_path / "more.pth", {"epoch": 1, "loss": 0.5, "model_state_dict": state})
    with pytest.raises(InputError, match="it has 1 parameters more, first net.extra"):
        unet_checkpoint.load_diffusion(tmp_path / "more.pth", CPU)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    content = {"epoch": 1, "loss": 0.5, "model_state_dict": DiffusionNet(8).state_dict()}
    checkpoint.save(tmp_path / "new.pth", content)
    monkeypatch.undo()
    with pytest.raises(InputError, match="was written by a newer version of this project: update the project"):
        checkpoint.load(tmp_path / "new.pth")


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("pwned",)

    published(tmp_path / "evil.pth", DiffusionNet(8), evil=Evil())
    with pytest.raises(InputError, match="not a whole checkpoint"):
        checkpoint.load(tmp_path / "evil.pth")


def test_a_published_file_cut_anywhere_is_named(tmp_path):
    """The older format of PyTorch, in which published files may be: every cut ends in the same clear line."""
    torch.save({"epoch": 1, "loss": 0.5, "model_state_dict": DiffusionNet(8).state_dict()}, tmp_path / "whole.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip
    whole = (tmp_path / "whole.pth").read_bytes()
    for cut in range(1, len(whole), len(whole) // 60):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(InputError, match="cut.pth is not a whole checkpoint"):
            checkpoint.load(tmp_path / "cut.pth")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"a": 1})])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth"):
        checkpoint.load(tmp_path / "x.pth")


def test_truncated_and_missing_files(tmp_path):
    path = published(tmp_path / "a.pth", DiffusionNet(8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="not a whole checkpoint"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="does not exist"):
        checkpoint.load(tmp_path / "b.pth")


def test_an_interrupted_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pth"
    checkpoint.save(path, {"model_state_dict": DiffusionNet(8).state_dict(), "epoch": 1, "loss": 0.5})
    real_write = Path.write_bytes

    def disk_full(file, content):
        real_write(file, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="No space left on device: .*last.pth"):
        checkpoint.save(path, {"epoch": 2})
    assert checkpoint.load(path)["epoch"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["last.pth"]


def hand_over(state, model, path):
    start = networks.Start(*unet_checkpoint.diffusion_start({"model_state_dict": state}, path)).without_optional()
    unet_checkpoint.hand_over(start.weights, start.new, model, path)


def test_hand_over_gives_all_but_the_head(tmp_path, capsys):
    torch.manual_seed(0)
    pretrained, model = DiffusionNet(8), SegNet(8, 2)
    head = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(unet_checkpoint.HEAD)}
    hand_over(pretrained.state_dict(), model, tmp_path)
    for k, v in model.state_dict().items():
        assert torch.equal(v, head[k] if k in head else pretrained.state_dict()[k])
    assert "246 tensors loaded" in capsys.readouterr().out


def test_hand_over_leaves_the_head_new_even_where_it_would_fit(tmp_path):
    """With three classes the last convolution has the noise network's size: it must still be new."""
    pretrained, model = DiffusionNet(8), SegNet(8, 3)
    head = model.net.final_conv[1].weight.clone()
    hand_over(pretrained.state_dict(), model, tmp_path)
    assert torch.equal(model.net.final_conv[1].weight, head)


def test_hand_over_stops_if_more_than_the_head_differs(tmp_path):
    state = DiffusionNet(8).state_dict()
    del state["net.mid_attn.fn.norm.bias"]
    with pytest.raises(InputError, match=r"1 tensors beside the head differ, first net.mid_attn.fn.norm.bias"):
        hand_over(state, SegNet(8, 2), tmp_path)
    with pytest.raises(InputError, match=r"found \(16,\), expected \(8,\)"):
        hand_over(DiffusionNet(16).state_dict(), SegNet(8, 2), tmp_path)


def test_the_wrong_stage_is_refused(tmp_path):
    segmentation = published(tmp_path / "a.pth", SegNet(8, 2), stage="finetune")
    with pytest.raises(InputError, match="segmentation network; one of pre-training is needed"):
        unet_checkpoint.load_diffusion(segmentation, CPU)
    pretraining = published(tmp_path / "b.pth", DiffusionNet(8), stage="pretrain")
    with pytest.raises(InputError, match="is of pre-training; a fine-tuned one is needed"):
        networks.load_segmentation(pretraining, CPU)


def test_a_file_is_found_whatever_its_name(tmp_path):
    (tmp_path / "weights.tar").touch()
    assert checkpoint.find(str(tmp_path / "weights.tar")) == tmp_path / "weights.tar"


def test_find_names_the_runs_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SNAPSHOTS", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "best.pth").touch()
    assert checkpoint.find("mine") == checkpoint.find(str(tmp_path / "mine")) == tmp_path / "mine" / "best.pth"
    with pytest.raises(InputError, match="no run 'yours'.*there are: mine"):
        checkpoint.find("yours")


# --- what a checkpoint holds is checked where it is read ---


def whole(model, **changes):
    """What a run of fine-tuning saves, of a network or of its parameters."""
    state = model if isinstance(model, dict) else model.state_dict()
    content = {"epoch": 3, "loss": 0.5, "model_state_dict": state, "stage": "finetune", "patch_size": 16, "mpp": 0.5}
    settings = {"input_range": (0.0, 1.0), "timestep": 0}
    return {**content, "settings": settings, "classes": ["background", "thing"], "instances": None, **changes}


@pytest.fixture(scope="module")
def state():
    return SegNet(8, 2).state_dict()


def refusal(path):
    """In which line a checkpoint is refused; "" where it gives a network that segments, and what that wants to know."""
    try:
        _, loaded = networks.load_segmentation(path, CPU)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return str(error)
    low, high = loaded["settings"]["input_range"]
    assert low < high and len(loaded["classes"]) == 2
    return ""


def refusal_of(path, state, **changes):
    """The same of a checkpoint that holds `changes`; of what is refused at its reading, without a whole network."""
    torch.save(whole({unet_checkpoint.LAST_CONVOLUTION: state[unet_checkpoint.LAST_CONVOLUTION]}, **changes), path)
    if read_or_refuse(lambda: checkpoint.load(path)) is not None:
        torch.save(whole(state, **changes), path)
    return refusal(path)


@pytest.mark.parametrize("field", ["epoch", "loss", "stage", "settings", "classes", "patch_size", "mpp", "instances",
                                   "version", "contents", "model_state_dict"])  # fmt: skip
def test_every_field_is_as_wanted_or_named(tmp_path, state, field):
    """All values of other kinds, of which each field takes few."""
    taken = [value for value in HOSTILE if not refusal_of(tmp_path / "a.pth", state, **{field: value})]
    assert len(taken) < 12
    content = whole(state)
    content.pop(field, None)
    torch.save(content, tmp_path / "a.pth")
    needed = field in ("epoch", "loss", "model_state_dict", "classes", "settings")
    assert bool(refusal(tmp_path / "a.pth")) == needed


@pytest.mark.parametrize("name", ["input_range", "timestep"])
def test_settings_that_nobody_can_compute_with_are_refused(tmp_path, state, name):
    for value in [*HOSTILE, (1.0, 0.0), (0.0, float("nan")), (0, 1, 2), ("0", "1")]:
        said = refusal_of(tmp_path / "a.pth", state, settings={"input_range": (0.0, 1.0), name: value})
        assert f"settings, holds {name} = " in said or (name == "timestep" and value in (0, 20, 2**15))


@pytest.mark.parametrize("name", ["timesteps", "schedule"])
def test_a_diffusion_process_that_is_none_is_refused(tmp_path, name):
    state = DiffusionNet(8).state_dict()
    for value in HOSTILE:
        content = whole(state, stage="pretrain", settings={name: value})
        torch.save(content, tmp_path / "a.pth")
        loaded = read_or_refuse(lambda: unet_checkpoint.load_diffusion(tmp_path / "a.pth", CPU))
        assert loaded is None or (name == "timesteps" and value in (20, 2**15))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, state, number):
    """A network of such weights sees no object anywhere."""
    spoilt = {**state, "net.init_conv.bias": torch.full_like(state["net.init_conv.bias"], number)}
    checkpoint.save(tmp_path / "a.pth", whole(spoilt))
    with pytest.raises(
        InputError, match=r"a.pth holds weights that are not finite numbers .* first net.init_conv.bias"
    ):
        networks.load_segmentation(tmp_path / "a.pth", CPU)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6, 10**6),
        torch.zeros(2, 8, 1, 1, device="meta"),
        torch.zeros(2, 8, 1, 1).to_sparse(),
        torch.zeros(2, 8, 1, 1, dtype=torch.complex64),
        torch.zeros(2, 10**7, 1, 1, dtype=torch.bool),
        torch.zeros(2, 4096, 1, 1),
        torch.zeros(300, 8, 1, 1),
        torch.zeros(0, 8, 1, 1),
        torch.zeros(2, 0, 1, 1),
        torch.zeros(2),
        torch.tensor(1.0),
    ],
)
def test_tensors_that_are_no_parameters_ask_for_no_memory(tmp_path, state, tensor):
    torch.save(whole({**state, unet_checkpoint.LAST_CONVOLUTION: tensor}), tmp_path / "a.pth")
    assert refusal(tmp_path / "a.pth")


def test_names_and_number_of_classes_agree(tmp_path, state):
    torch.save(whole(state, classes=["background", "a", "b"]), tmp_path / "a.pth")
    with pytest.raises(InputError, match="a.pth names 3 classes; its network tells 2 apart"):
        networks.load_segmentation(tmp_path / "a.pth", CPU)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of damaged files
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_damaged_checkpoint_is_read_or_refused(tmp_path, state, form):
    """Bytes flipped, removed and put in where the values are described, in both formats of PyTorch."""
    rng, path = np.random.default_rng(11), tmp_path / "a.pth"
    small = {unet_checkpoint.LAST_CONVOLUTION: state[unet_checkpoint.LAST_CONVOLUTION]}
    torch.save(whole(small), path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    for _ in range(300):
        path.write_bytes(damaged(content, rng))
        loaded = read_or_refuse(lambda: checkpoint.load(path))
        assert loaded is None or all(v.isfinite().all() for v in loaded["model_state_dict"].values())


GO_ON = {"step": 0, "joint_batch": 4, "means": {"loss": [1.0, 2]}, "seconds": 0.0, "best_loss": float("inf"),
         "history": [{"epoch": 1, "loss": 0.5}], "patches": ["a", "b"],
         "optimizer_state_dict": {"state": {}, "param_groups": []}}  # fmt: skip


@pytest.mark.parametrize("field", list(GO_ON))
def test_what_a_run_goes_on_from_is_as_wanted_or_named(tmp_path, state, field):
    small, path = {unet_checkpoint.LAST_CONVOLUTION: state[unet_checkpoint.LAST_CONVOLUTION]}, tmp_path / "last.pth"
    torch.save(whole(small, **GO_ON), path)
    assert checkpoint.load_to_go_on(path)["step"] == 0
    taken = 0
    for value in HOSTILE:
        torch.save(whole(small, **{**GO_ON, field: value}), path)
        taken += read_or_refuse(lambda: checkpoint.load_to_go_on(path)) is not None
    assert taken < 12
    torch.save(whole(small, **{k: v for k, v in GO_ON.items() if k != field}), path)
    with pytest.raises(InputError, match=f"last.pth holds no '{field}': no run goes on from it; .* --fresh"):
        checkpoint.load_to_go_on(path)
