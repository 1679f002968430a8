"""Which organ an image of MoNuSeg shows: by the tissue source site in its TCGA barcode, TCGA-<site>-<patient>-...

The sites are those of the Genomic Data Commons. MoNuSeg's own list calls the training images of sites 18, 21, 38, 49
and 50 liver; by their sites they are of the two lung cancer studies.
"""

SITES = {
    "breast": ("A7", "AC", "AO", "AR", "E2"),
    "kidney": ("2Z", "B0", "GL", "HE", "IZ"),
    "lung": ("18", "21", "38", "44", "49", "50", "69"),
    "prostate": ("CH", "EJ", "G9", "HC"),
    "bladder": ("CU", "DK", "G2", "ZF"),
    "colon": ("A6", "AY", "NH"),
    "stomach": ("KB", "RD"),
    "brain": ("FG", "HT"),
}
_ORGANS = {site: organ for organ, sites in SITES.items() for site in sites}


def organ_of(image: str) -> str:
    """The organ of an image by its name; "" where the name does not tell."""
    parts = image.split("-")
    return _ORGANS.get(parts[1], "") if parts[0] == "TCGA" and len(parts) > 2 else ""
