"""The pre-trainings of others, as the tests go through them: a new one is entered here, once."""

from types import ModuleType
from typing import Any, NamedTuple

from GenSelfDiff.methods import context_restoration, masked_images, simclr, stain_prediction, variational_autoencoder
from GenSelfDiff.methods.restoration import RestorationSettings

CHANGES = {"weights", "history"}
ONE_STEP = {"timestep": (40, CHANGES)}
RESTORING = ONE_STEP | {"sample_every": (1, {"files"})}


class Pretraining(NamedTuple):
    """What is its own: the settings that it shares with the others are looked at elsewhere."""

    script: ModuleType
    decoder: bool
    """whether it is handed on, beside the encoder"""
    small: dict[str, Any] = {}
    """settings for patches of 16 pixels"""
    settings: dict[str, tuple[Any, set[str]]] = {}
    """of each setting of its own another value, and what that must change: see test_every_training_setting.py"""

    @property
    def restores(self) -> bool:
        """Whether it restores images, and draws pictures of that."""
        return issubclass(self.script.Settings, RestorationSettings)

    @property
    def rows(self) -> dict[str, tuple[Any, set[str]]]:
        """`settings`, and those of its kind."""
        return (RESTORING if self.restores else ONE_STEP) | self.settings


PRETRAININGS = {
    "context": Pretraining(
        context_restoration,
        decoder=True,
        small={"part": 4, "swaps": 3},
        settings={"swaps": (1, CHANGES), "part": (2, CHANGES)},
    ),
    "masked": Pretraining(
        masked_images,
        decoder=True,
        small={"block": 4},
        settings={"block": (8, CHANGES), "masked": (0.3, CHANGES)},
    ),
    "stain": Pretraining(stain_prediction, decoder=True),
    "vae": Pretraining(
        variational_autoencoder,
        decoder=False,
        small={"latent": 4},
        settings={"latent": (3, {"initial", "weights"}), "sigma": (1.0, CHANGES)},
    ),
    "simclr": Pretraining(
        simclr,
        decoder=False,
        small={"projection": 8},
        settings={
            "temperature": (0.1, CHANGES),
            "projection": (4, {"initial", "weights"}),
            "smallest_crop": (1.0, {"weights", "images"}),
            "colour": (0.1, {"weights", "images"}),
        },
    ),
}
