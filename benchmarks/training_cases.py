"""What benchmarks/training.py compares: each setting alone, all together, two peers; convolutions as the ceiling."""

from dataclasses import dataclass, replace

from benchmarks.plain import KERNELS

OURS, PEERS = "GenSelfDiff", ("denoising-diffusion-pytorch", "diffusers")
OFF = "everything off"
CEILINGS = {precision: f"large 3x3 convolution, {precision}" for precision in ("float32", "tf32", "bfloat16")}
# Where only memory is of interest
OF_MEMORY = (OFF, "all float32", "all bfloat16", "all float32 + checkpointing", "all bfloat16 + checkpointing")


@dataclass(frozen=True)
class Case:
    """A row of the table: a network and the settings that are on.

    allocator: freed memory is kept (`keep_freed_memory`). channels_last, attention: the kernels of
    `GenSelfDiff/unet.py` instead of plain ones. fused: Adam in one kernel. bfloat16: autocast. checkpointing:
    activations computed again in the backward pass. tf32, compile: PyTorch's own.
    """

    name: str
    network: str
    switches: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """Of the convolutions, which are most of the work."""
        return next((switch for switch in self.switches if switch in CEILINGS), "float32")


def all_cases(on_gpu: bool, compiled: bool) -> list[Case]:
    """Ours, the peers' (as they are and with what PyTorch itself can do for them), the ceilings."""
    native = "tf32" if on_gpu else "allocator"
    alone = [native, *KERNELS, "fused", "bfloat16", "checkpointing", *(["compile"] if compiled else [])]
    together = (*(() if on_gpu else (native,)), *KERNELS, "fused")
    added = [(), ("bfloat16",), ("checkpointing",), ("bfloat16", "checkpointing")]
    added += [("tf32",)] if on_gpu else []
    added += [("compile",), ("bfloat16", "compile")] if compiled else []
    ours = [Case(OFF, OURS), *(Case(f"+{switch}", OURS, (switch,)) for switch in alone)]
    for more in added:
        case = Case("all", OURS, together + more)
        others = [switch for switch in more if switch != case.precision]
        ours.append(replace(case, name=" + ".join((f"all {case.precision}", *others))))
    peers = [
        Case(" + ".join((peer, *switches)), peer, switches)
        for peer in PEERS
        for switches in ((), (native,), (native, "bfloat16"))
    ]
    precisions = ("float32", "tf32", "bfloat16") if on_gpu else ("float32", "bfloat16")
    return ours + peers + [Case(CEILINGS[p], "convolution", (native, p)) for p in precisions]
