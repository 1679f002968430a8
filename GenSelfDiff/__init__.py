"""GenSelfDiff-HIS: self-supervision by a denoising diffusion model for histology segmentation (Purma et al., 2024).

Importing this package imports no library: the preprocessing, which needs no PyTorch, starts at once.
"""

from utils_general import check_working_folder

check_working_folder()
