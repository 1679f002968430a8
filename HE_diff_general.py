"""General pre-training: one network on the unlabelled patches of all data sets together (30,149 in the paper).

CUDA_VISIBLE_DEVICES=0,1,2,3 python3 ./HE_diff_general.py
python3 ./HE_diff_general.py --data data/MoNuSeg data/GlaS --run-name MoNuSeg_GlaS_pretrain
"""

from dataclasses import dataclass
from pathlib import Path

from GenSelfDiff.pretrain import SS_diff
from GenSelfDiff.settings import read_command_line
from utils_general import GLAS, HN, MONUSEG, run_script


@dataclass(frozen=True, kw_only=True)
class Settings(SS_diff.Settings):
    """Pre-train the noise network on several data sets together."""

    data: tuple[Path, ...] = (MONUSEG, GLAS, HN)
    run_name: str = "general_pretrain"
    batch_size: int = 6


if __name__ == "__main__":
    run_script(SS_diff.main, Settings, read_command_line)
