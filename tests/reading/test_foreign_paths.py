"""Paths that were written on another machine mean the file that their owner meant, or none."""

import time
import unicodedata

import pytest

from segdist.reading.foreign_paths import KnownFiles

CAMERAS = ("cam1/0001.png", "cam2/0001.png", "cam2/0002.png")
YEARS = ("train2017/0000.jpg", "val2017/0000.jpg", "val2017/0001.jpg")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cam1/0001.png", "cam1/0001.png"),
        ("./cam1/0001.png", "cam1/0001.png"),
        ("cam1\\0001.png", "cam1/0001.png"),
        ("C:\\data\\set 1\\cam2\\0001.png", "cam2/0001.png"),
        ("/home/someone/photos/cam2/0001.png", "cam2/0001.png"),
        ("file:///home/someone/cam2/0001.png", "cam2/0001.png"),
        ("s3://bucket/cam2/0001.png", "cam2/0001.png"),
        ("../annotations/../cam1/0001.png", "cam1/0001.png"),
        ("CAM1/0001.PNG", "cam1/0001.png"),
        ("cam1%2F0001.png", "cam1/0001.png"),
        (" cam1/0001.png\r", "cam1/0001.png"),
        ("0002.png", "cam2/0002.png"),
        ("cam9/0002.png", "cam2/0002.png"),
        ("0001.png", ""),
        ("cam3/0001.png", ""),
        ("0003.png", ""),
        ("", ""),
    ],
)
def test_a_path_means_the_file_with_the_longest_common_ending(written: str, meant: str) -> None:
    assert KnownFiles(CAMERAS).match(written).name == meant


def test_a_path_that_several_files_fit_names_them() -> None:
    match = KnownFiles(CAMERAS).match("images/0001.png")
    assert match.rivals == ("cam1/0001.png", "cam2/0001.png")
    assert match.common == 1


@pytest.mark.parametrize(
    ("written", "split", "meant"),
    [
        ("0000.jpg", "train", "train2017/0000.jpg"),
        ("0000.jpg", "val", "val2017/0000.jpg"),
        ("0000.jpg", "", ""),
        ("0001.jpg", "train", ""),
        ("train2017/0001.jpg", "", ""),
        ("D:\\coco\\train2017\\0000.jpg", "", "train2017/0000.jpg"),
        ("val2017/0000.jpg", "train", "val2017/0000.jpg"),
        ("0001.jpg", "test", "val2017/0001.jpg"),
    ],
)
def test_a_path_of_one_split_never_means_a_file_of_another(written: str, split: str, meant: str) -> None:
    assert KnownFiles(YEARS).match(written, split=split).name == meant


def test_the_nearer_of_two_files_is_meant() -> None:
    known = KnownFiles(["a/images/1.jpg", "b/images/1.jpg"])
    assert known.match("1.jpg", near="a/labels").name == "a/images/1.jpg"
    assert known.match("images/1.jpg", near="b").name == "b/images/1.jpg"
    assert known.match("images/1.jpg", near="c").name == ""


def test_case_and_unicode_forms_count_only_where_they_tell_files_apart() -> None:
    name = "fa\u00e7ade.jpg"
    decomposed = unicodedata.normalize("NFD", name)
    assert KnownFiles([decomposed]).match(name).name == decomposed
    assert KnownFiles([name]).match(decomposed).name == name
    assert KnownFiles(["Photo.JPG", "photo.jpg"]).match("x/photo.jpg").name == "photo.jpg"
    assert KnownFiles(["Photo.JPG", "photo.jpg"]).match("PHOTO.jpg").name == ""


def test_the_file_of_exactly_the_written_name_comes_first_whatever_the_name_holds() -> None:
    for name in ("a\\b.jpg", "50%25.jpg", " a.jpg", "x/../a.jpg", "bad\udcff.jpg", "C:.jpg"):
        assert KnownFiles([name, "b.jpg", "50%.jpg", "a.jpg"]).match(name).name == name


def test_two_paths_never_mean_one_file() -> None:
    known = KnownFiles(["0001.png", "cam2/0002.png"])
    found = known.match_all(["cam1/0002.png", "cam2/0002.png", "a/0001.png", "b/0001.png"])
    assert {written: match.name for written, match in found.items()} == {
        "cam1/0002.png": "",
        "cam2/0002.png": "cam2/0002.png",
        "a/0001.png": "",
        "b/0001.png": "",
    }
    assert found["a/0001.png"].rivals == ("b/0001.png",)
    assert known.match_all(["0001.png", "./0001.png"])["./0001.png"].name == "0001.png"  # one path, written twice


def test_ten_thousand_files_of_one_name_are_found_in_linear_time() -> None:
    names = [f"scene{n}/0001.png" for n in range(10_000)]
    known = KnownFiles(names)
    started = time.process_time()
    found = known.match_all([f"C:\\x\\{name}" for name in names] + [f"other{n}/0001.png" for n in range(10_000)])
    assert [match.name for match in found.values()] == names + [""] * 10_000
    assert time.process_time() - started < 20  # comparing each with each took minutes
