from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from file_contents import DataSet
from pre_process.MoNuSeg.preprocess import TEST_FOLDER, TRAINING_FOLDER, Settings, draw_nuclei, main, read_outlines
from pre_process.patches import SourceImage
from tests.conftest import damaged, read_or_refuse
from utils_general import InputError


def write_xml(path, *annotations):
    """Each annotation is a list of regions, each region a list of (x, y)."""

    def region(vertices):
        return "<Region>" + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in vertices) + "</Region>"

    inner = "".join(f"<Annotation>{''.join(map(region, regions))}</Annotation>" for regions in annotations)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<Annotations>{inner}</Annotations>")


def square(x, y, side=2):
    return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]


@pytest.fixture
def download(tmp_path, picture):
    """Three training and five test images of 32x24 pixels as the official downloads unpack; nucleus i at (2i, 1)."""
    raw = tmp_path / "raw"
    for name in ("TCGA-B", "TCGA-A", "TCGA-C"):
        picture(raw / TRAINING_FOLDER / "Tissue Images" / f"{name}.tif")
        write_xml(raw / TRAINING_FOLDER / "Annotations" / f"{name}.xml", [square(1, 1)])
    for i in range(5):
        picture(raw / TEST_FOLDER / f"TCGA-T{i}.tif")
        write_xml(raw / TEST_FOLDER / f"TCGA-T{i}.xml", [square(2 * i, 1)])
    return raw


@pytest.fixture
def settings(download, tmp_path):
    return Settings(raw=download, output=tmp_path / "out", patch_size=16, stride=16)


# Polygons to labels


def test_earlier_region_keeps_the_pixel_and_numbers_are_positions(tmp_path):
    file = tmp_path / "a.xml"
    too_short = [(0, 0), (4, 4)]
    write_xml(file, [square(0, 0, 3), too_short, square(2, 0, 3)], [square(0, 3, 2), square(0.6, 3.6, 0.8)])
    class_map, numbers = draw_nuclei(read_outlines(file), (5, 6))
    expected = [
        [1, 1, 1, 3, 3, 0],
        [1, 1, 1, 3, 3, 0],
        [1, 1, 1, 3, 3, 0],
        [4, 4, 0, 0, 0, 0],
        [4, 4, 0, 0, 0, 0],
    ]  # region 2 has two vertices, region 5 no pixel centre of its own
    assert numbers.tolist() == expected
    assert np.array_equal(class_map, np.array(expected) > 0)


def test_region_partly_outside(tmp_path):
    write_xml(tmp_path / "a.xml", [square(-1.5, -1.5, 3), square(4.25, 3.25, 40)])
    numbers = draw_nuclei(read_outlines(tmp_path / "a.xml"), (5, 6))[1]
    assert np.argwhere(numbers == 1).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert np.argwhere(numbers == 2).tolist() == [[3, 4], [3, 5], [4, 4], [4, 5]]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("<Annotations><Region><Vertex X='1' Y='2'/>", r"cannot read .*a.xml: no element found.* complete"),
        ("", r"cannot read .*a.xml"),
        ("<Annotations/>", r"a.xml holds no Region"),
        ("<A><Region/><Region><Vertex X='1'/></Region></A>", r"a.xml: region 2 has a vertex without numbers X, Y"),
        ("<A><Region><Vertex X='1,5' Y='2'/></Region></A>", r"a.xml: region 1 has a vertex without numbers X, Y"),
        ("<A><Region><Vertex X='nan' Y='2'/></Region></A>", r"a.xml: a vertex is not a finite number"),
        ("<?xml version='1.0' encoding='nobody'?><A/>", r"cannot read .*a.xml: .*; is the file complete"),
    ],
)
def test_broken_xml(tmp_path, content, match):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(InputError, match=match):
        read_outlines(tmp_path / "a.xml")


def test_a_damaged_annotation_is_read_or_refused(tmp_path):
    rng, file = np.random.default_rng(11), tmp_path / "a.xml"
    vertices = "".join(f'<Vertex X="{x}.5" Y="{y}.25"/>' for x, y in ((1, 2), (9, 2), (9, 8)))
    whole = f"<?xml version='1.0' encoding='utf-8'?><A><Region>{vertices}</Region></A>".encode()
    for _ in range(300):
        file.write_bytes(damaged(whole, rng))
        outlines = read_or_refuse(lambda: read_outlines(file))
        assert outlines is None or all(np.isfinite(outline).all() for outline in outlines)


# Protocols


def test_paper_protocol_by_the_script(download, tmp_path, run_script_file, read_folder):
    (download / TRAINING_FOLDER / "Annotations" / "TCGA-A.xml").unlink()  # not needed
    out = tmp_path / "out"
    arguments = ["--raw", download, "--output", out, "--patch-size", 16, "--stride", 8]
    done = run_script_file("pre_process/MoNuSeg/preprocess.py", *arguments)

    assert DataSet.read(out).protocol == "paper"
    assert DataSet.read(out).classes == ["background", "nucleus"]
    assert DataSet.read(out).instances == "watershed"
    unlabelled, arrays = read_folder(out / "unlabelled")
    assert unlabelled.source.tolist() == ["TCGA-A"] * 6 + ["TCGA-B"] * 6 + ["TCGA-C"] * 6
    assert set(arrays) == {"images"}
    # RandomState(2023).permutation(5) = 3 0 4 2 | 1
    labelled, _ = read_folder(out / "labelled")
    assert labelled.source.unique().tolist() == ["TCGA-T0", "TCGA-T2", "TCGA-T3", "TCGA-T4"]
    test, arrays = read_folder(out / "test")
    assert test.source.unique().tolist() == ["TCGA-T1"]
    assert set(test.split) == {"test"}
    assert np.argwhere(arrays["labels"][0]).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    assert arrays["instances"][0].max() == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "MoNuSeg: 3 training images (official: 37) and 5 test images (official: 14)"
    assert lines[-2].startswith("5 regions in the xml files, of which 0 cover no pixel")
    assert lines[-1] == f"patches are in {out}"


def test_official_protocol(settings, download, read_folder, capsys):
    write_xml(download / TEST_FOLDER / "TCGA-T0.xml", [square(1, 1), [(0, 0)], square(-9, -9)])
    main(replace(settings, protocol="official"))
    assert sorted(p.name for p in settings.output.glob("[!.]*")) == ["dataset.json", "labelled", "test"]
    labelled, arrays = read_folder(settings.output / "labelled")
    assert labelled.source.unique().tolist() == ["TCGA-A", "TCGA-B", "TCGA-C"]
    assert set(arrays) == {"images", "labels", "instances"}
    test, _ = read_folder(settings.output / "test")
    assert test.source.unique().tolist() == [f"TCGA-T{i}" for i in range(5)]
    assert "10 regions in the xml files, of which 2 cover no pixel of their own" in capsys.readouterr().out


# Mistakes


def remove(folder, *names):
    for name in names:
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("protocol", "damage", "match"),
    [
        ("paper", lambda raw: remove(raw / TEST_FOLDER, "TCGA-T3.xml"), r"TCGA-T3.tif has no label: .*MoNuSegTestData"),
        ("paper", lambda raw: remove(raw / TEST_FOLDER, "TCGA-T3.tif"), r"TCGA-T3.xml labels TCGA-T3, but .* no image"),
        (
            "official",
            lambda raw: remove(raw / TRAINING_FOLDER / "Annotations", "TCGA-B.xml"),
            r"TCGA-B.tif has no label: looked for an .xml .*Annotations \(1 of 3",
        ),
        (
            "paper",
            lambda raw: [remove(raw / TEST_FOLDER, f"TCGA-T{i}.tif", f"TCGA-T{i}.xml") for i in range(4)],
            r"holds 1 image: at least 2",
        ),
        (
            "paper",
            lambda raw: [remove(raw / TEST_FOLDER, f"TCGA-T{i}.tif") for i in range(5)],
            r"no image in .*MoNuSegTestData: looked for \*.tif, \*.tiff",
        ),
    ],
)
def test_incomplete_download(settings, download, protocol, damage, match):
    damage(download)
    with pytest.raises(InputError, match=match):
        main(replace(settings, protocol=protocol))
    assert not settings.output.exists()


def test_missing_folder_by_the_script(tmp_path, run_script_file):
    done = run_script_file("pre_process/MoNuSeg/preprocess.py", "--raw", tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"error: folder {tmp_path / TRAINING_FOLDER / 'Tissue Images'} does not exist"]


def test_truncated_image(settings, download, truncate):
    truncate(download / TRAINING_FOLDER / "Tissue Images" / "TCGA-C.tif")
    with pytest.raises(InputError, match=r"cannot read image .*TCGA-C.tif"):
        main(settings)
    assert not settings.output.exists()


# Real data


def test_all_regions_of_the_real_test_set(real_data):
    files = sorted((real_data / "MoNuSeg" / TEST_FOLDER).glob("*.xml"))
    assert len(files) == 14
    assert sum(len(read_outlines(file)) for file in files) == 6697


def test_real_labels_lie_on_dark_pixels(real_data):
    """No shift: the nuclei of a real image are best matched where the labels are, and each has its number."""
    file = real_data / "MoNuSeg" / TEST_FOLDER / "TCGA-HT-8564-01Z-00-DX1.tif"
    xml = file.with_suffix(".xml")
    source = SourceImage(file, xml, partial(draw_nuclei, read_outlines(xml)))
    maps = source.read(Settings(), ["b", "n"])
    image, class_map, numbers = maps.image, maps.classes, maps.instances
    assert image.shape == (1000, 1000, 3)
    assert len(np.unique(numbers)) - 1 == 249
    red = image[..., 0].astype(float)
    contrast = {
        (dy, dx): np.corrcoef(np.roll(class_map, (dy, dx), (0, 1)).ravel(), -red.ravel())[0, 1]
        for dy in (-2, 0, 2)
        for dx in (-2, 0, 2)
    }
    assert max(contrast, key=contrast.get) == (0, 0)
    assert contrast[0, 0] > 0.5
