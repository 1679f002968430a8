"""What benchmarks/training.py compares, and in which order: each setting alone, all together, two peers, ceilings."""

from dataclasses import dataclass, replace

from benchmarks.plain import KERNELS

OURS, PEERS = "GenSelfDiff", ("denoising-diffusion-pytorch", "diffusers")
OFF, COPY = "everything off", "large copy"
CEILINGS = {precision: f"large 3x3 convolution, {precision}" for precision in ("float32", "tf32", "bfloat16")}
ALL_CEILINGS = (*CEILINGS.values(), COPY)
GRAPH = "cuda graph"
# Where only memory is of interest
OF_MEMORY = (OFF, "all float32", "all bfloat16", "all float32 + checkpointing", "all bfloat16 + checkpointing")
# Where time is short: these first, in this order. The ceilings take seconds, and without them there are no shares.
FIRST = (
    *("all bfloat16", "all float32", OFF, "all tf32", *ALL_CEILINGS),
    *("all bfloat16 + compile", f"all bfloat16 + {GRAPH}"),
)

Size = dict[str, int]  # dim, size (pixels) and batch


@dataclass(frozen=True)
class Case:
    """A row of the table: a network and the settings that are on.

    allocator: freed memory is kept (`keep_freed_memory`). channels_last, attention: the kernels of
    `GenSelfDiff/unet.py` instead of plain ones. fused: Adam in one kernel. bfloat16: autocast. checkpointing:
    activations computed again in the backward pass. tf32, compile: PyTorch's own. cuda graph: forward, backward and
    Adam are captured once, and replayed as one.
    """

    name: str
    network: str
    switches: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """Of the convolutions, which are most of the work."""
        return next((switch for switch in self.switches if switch in CEILINGS), "float32")

    def shape(self, size: Size, on_gpu: bool) -> Size:
        """What is computed where `size` is asked for: a ceiling is always as large as it takes to be one."""
        if self.network == "convolution":
            return {"dim": 512, "size": 128, "batch": 32} if on_gpu else {"dim": 256, "size": 64, "batch": 8}
        if self.network == "copy":  # 2 GiB, 256 MiB: far more than any cache
            return {"dim": 8 if on_gpu else 1, "size": 8192, "batch": 1}
        return size


def all_cases(on_gpu: bool, compiled: bool) -> list[Case]:
    """Ours, the peers' (as they are and with what PyTorch itself can do for them), the ceilings; as in the table."""
    native = "tf32" if on_gpu else "allocator"
    alone = [native, *KERNELS, "fused", "bfloat16", "checkpointing"]
    alone += [*(["compile"] if compiled else []), *([GRAPH] if on_gpu else [])]
    together = (*(() if on_gpu else (native,)), *KERNELS, "fused")
    added = [(), ("bfloat16",), ("checkpointing",), ("bfloat16", "checkpointing")]
    added += [("tf32",)] if on_gpu else []
    added += [("compile",), ("bfloat16", "compile")] if compiled else []
    added += [("bfloat16", GRAPH)] if on_gpu else []
    added += [("bfloat16", "compile", GRAPH)] if on_gpu and compiled else []
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
    ceilings = [Case(CEILINGS[p], "convolution", (native, p)) for p in precisions]
    return [*ours, *peers, *ceilings, Case(COPY, "copy", (native,))]


def plan(
    cases: list[Case], sizes: list[Size], memory_sizes: list[Size], rounds: int
) -> tuple[list[tuple[int, Size, Case]], list[tuple[int, Size, Case]]]:
    """Round, size and case of each measurement in the order of their worth: the `FIRST` cases once, and all others."""
    first = sorted((case for case in cases if case.name in FIRST), key=lambda case: FIRST.index(case.name))
    then = [case for case in cases if case.name not in FIRST]
    of_memory = [(0, size, case) for size in memory_sizes for case in cases if case.name in OF_MEMORY]
    later = [(n, size, case) for n in range(1, rounds) for size in sizes for case in (*first, *then)]
    return (
        [(0, size, case) for size in sizes for case in first],
        [(0, size, case) for size in sizes for case in then] + of_memory + later,
    )
