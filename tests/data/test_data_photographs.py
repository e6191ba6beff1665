"""Photographs from folders that nobody vouches for, and crops of two; batches that hold one batch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from bncourse.data import DataError, photographs, picture_folder
from bncourse.data.photographs import (
    CROPS,
    PARTS_OF_PHOTOGRAPH,
    Pictures,
    Report,
    Skipped,
    load_crops,
    load_folder,
    load_photographs,
    photograph_batches,
    printable,
)


def colour(number: int) -> tuple[int, int, int]:
    return (number % 256, 7 * number % 256, 255 - number % 256)


def paint(path: Path, number: int, size: tuple[int, int] = (12, 8)) -> None:
    """Write a picture of one colour, a PNG whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour(number)).save(path, "PNG")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten cats and ten dogs: picture k of a class has colour(k), or colour(100 + k)."""
    home = tmp_path / "pictures"
    for number in range(10):
        paint(home / "cats" / f"{number}.png", number)
        paint(home / "dogs" / f"{number}.png", 100 + number)
    return home


@pytest.fixture
def parted(tmp_path) -> Path:
    """The article's layout."""
    home = tmp_path / "parted"
    for offset, part in ((0, "train"), (50, "validation")):
        for number in range(3):
            paint(home / part / "cats" / f"{number}.png", offset + number)
            paint(home / part / "dogs" / f"{number}.png", 100 + offset + number)
    return home


def reasons(data) -> dict[str, str]:
    return {item.name: item.reason for item in data.report.skipped}


# The folder as it should be.


def test_a_folder_of_classes_is_split_by_content(folder):
    data = load_folder(folder, size=4)
    assert repr(data) == "Photographs('folder', 2 classes, 4x4 pixels: train 12, validation 4, test 4)"
    assert data.classes == ("cats", "dogs")
    assert data.report == Report(20)
    # Written down anew: within each class sorted by SHA-256 of the file, the first fifth is test, the next validation.
    for label, name in enumerate(data.classes):
        files = sorted((folder / name).iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).digest())
        for pictures, part in ((data.test, files[:2]), (data.validation, files[2:4]), (data.train, files[4:])):
            mine = np.flatnonzero(pictures.labels == label)
            expected = [list(Image.open(path).getpixel((0, 0))) for path in part]
            assert [pictures.read(int(i))[0, 0].tolist() for i in mine] == expected


def test_the_split_does_not_hang_on_names(folder, tmp_path):
    before = load_folder(folder, size=4).describe()
    for number, path in enumerate(sorted((folder / "cats").iterdir(), reverse=True)):
        path.rename(path.with_name(f"renamed {number}"))
    assert load_folder(folder, size=4).describe() == before


@pytest.mark.parametrize(
    ("count", "validation", "test", "expected"),
    [(10, 0.2, 0.2, (6, 2, 2)), (3, 0.2, 0.2, (1, 1, 1)), (4, 0.9, 0.05, (1, 2, 1)), (5, 0.05, 0.9, (1, 1, 3))],
)
def test_every_part_keeps_a_picture(tmp_path, count, validation, test, expected):
    for number in range(count):
        paint(tmp_path / "a" / f"{number}", number)
        paint(tmp_path / "b" / f"{number}", 100 + number)
    data = load_folder(tmp_path, size=4, validation=validation, test=test)
    for label in (0, 1):
        found = tuple(int(np.sum(p.labels == label)) for p in (data.train, data.validation, data.test))
        assert found == expected


def test_there_may_be_no_test_split(folder):
    data = load_folder(folder, size=4, test=0)
    assert data.test is None
    assert list(data.splits()) == ["train", "validation"]
    assert len(data.train) == 16


def test_the_layout_of_the_article(parted):
    data = load_folder(parted, size=4)
    assert data.classes == ("cats", "dogs")
    assert data.test is None
    assert data.train.labels.tolist() == data.validation.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [data.validation.read(i)[0, 0].tolist() for i in (0, 3)] == [list(colour(50)), list(colour(150))]


def test_the_layout_may_have_a_test_folder(parted):
    for name in ("cats", "dogs"):
        paint(parted / "test" / name / "x.png", 80 + len(name) + (name == "dogs"))
    assert len(load_folder(parted, size=4).test) == 2


def test_three_classes_are_numbered_by_their_sorted_names(folder):
    for number in range(5):
        paint(folder / "birds" / f"{number}", 200 + number)
    data = load_folder(folder, size=4)
    assert data.classes == ("birds", "cats", "dogs")
    assert set(data.train.labels.tolist()) == {0, 1, 2}


def test_pictures_come_back_squeezed_and_between_0_and_1(folder):
    images, labels = load_folder(folder, size=5).train.all()
    assert images.shape == (12, 5, 5, 3)
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert images.min() >= 0
    assert images.max() == 1.0
    expected = {tuple(np.float32(colour(k)) / np.float32(255)) for k in (*range(10), *range(100, 110))}
    assert {tuple(image[2, 2]) for image in images} <= expected


# What is not used, and why.

SOUND = {"cats": 10, "dogs": 10}


def add_bad_files(folder: Path, elsewhere: Path) -> dict[str, str]:
    """Spoil a folder; return the beginning of the reason that each file must be reported with."""
    cats, outside = folder / "cats", elsewhere / "outside"
    paint(outside / "secret.png", 250)
    paint(outside / "folder" / "inner.png", 251)
    whole = elsewhere / "whole.jpg"
    Image.new("RGB", (64, 64), "teal").save(whole)
    (cats / "empty.jpg").write_bytes(b"")
    (cats / "notes.txt").write_text("not a picture")
    (cats / "text.jpg").write_text("<script>alert('no picture')</script>")
    (cats / "cut.jpg").write_bytes(whole.read_bytes()[:-100])
    Image.new("1", (9_460, 9_460)).save(cats / "bomb.png")
    paint(cats / ".hidden.png", 240)
    (cats / "._0.png").write_bytes(b"\x00\x05\x16\x07")
    paint(folder / ".git" / "0.png", 241)
    shutil.copy(cats / "0.png", folder / "dogs" / "a cat.png")
    paint(cats / "inner" / "deep.png", 242)
    (cats / "loop.png").symlink_to("loop.png")
    (cats / "gone.png").symlink_to("nowhere.png")
    (cats / "secret.png").symlink_to(outside / "secret.png")
    (cats / "up.png").symlink_to("../../outside/secret.png")
    (cats / "linked folder").symlink_to(outside / "folder")
    (cats / "around").symlink_to(folder)
    (folder / "linked class").symlink_to(outside / "folder")
    (folder / "round").symlink_to(folder)
    paint(folder / "stray.png", 243)
    (folder / "nobody").mkdir()
    os.mkfifo(cats / "pipe.png")
    return {
        "cats/empty.jpg": "the file is empty",
        "cats/notes.txt": "no picture in a known format",
        "cats/text.jpg": "no picture in a known format",
        "cats/cut.jpg": "damaged or cut off",
        "cats/bomb.png": "more than 89,478,485 pixels",
        "cats/.hidden.png": "hidden",
        "cats/._0.png": "hidden",
        ".git": "hidden",
        "dogs/a cat.png": "the same bytes as cats/0.png",
        "cats/inner": "a folder inside a class",
        "cats/loop.png": "a link that leads nowhere",
        "cats/gone.png": "a link that leads nowhere",
        "cats/secret.png": "a link that leads out of the folder: refused",
        "cats/up.png": "a link that leads out of the folder: refused",
        "cats/linked folder": "a link that leads out of the folder: refused",
        "cats/around": "a folder inside a class",
        "linked class": "a link where a class's folder belongs",
        "round": "a link where a class's folder belongs",
        "stray.png": "lies in no class's folder",
        "nobody": "a class without pictures to train on: left out",
        "cats/pipe.png": "no regular file",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="links and pipes need rights there")
def test_bad_files_are_reported_by_name_and_the_good_ones_are_used(folder, tmp_path):
    before = load_folder(folder, size=4).describe()
    expected = add_bad_files(folder, tmp_path)
    data = load_folder(folder, size=4)
    found = reasons(data)
    assert found.keys() == expected.keys()
    for name, reason in expected.items():
        assert found[name].startswith(reason), name
    assert data.describe() == before
    assert data.classes == ("cats", "dogs")
    for pictures in data.splits().values():  # all of them can be read
        pictures.all()


def test_a_link_inside_the_folder_is_followed(folder, tmp_path):
    (folder / "cats" / "linked.png").symlink_to(folder / "store")
    paint(folder / "store", 230)
    data = load_folder(folder, size=4)
    assert reasons(data) == {"store": "lies in no class's folder"}
    assert data.report.used == 21
    (tmp_path / "alias").symlink_to(folder)  # whoever names a link means it
    assert load_folder(tmp_path / "alias", size=4).describe() == data.describe()


def test_a_picture_is_never_in_two_parts(parted):
    shutil.copy(parted / "train" / "cats" / "0.png", parted / "validation" / "cats" / "again.png")
    assert reasons(load_folder(parted, size=4)) == {
        "validation/cats/again.png": "the same bytes as train/cats/0.png",
    }


ODD = [
    "a\nb.png",
    "-rf",
    "<b>bold&amp;",
    "$x^2$",
    "\u732b \u0301 caf\u00e9",
    "\u202ereversed",
    " ",
    "'; rm -rf \"x",
    "\x1b[2J",
]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_files_and_classes_do_no_harm(folder, name):
    for number in range(3):
        paint(folder / name / f"{number}{name}", 200 + number)
    (folder / name / f"bad{name}").write_text("no picture")
    data = load_folder(folder, size=4)
    assert name in data.classes
    assert data.report.used == 23
    (item,) = data.report.skipped
    assert item.name == f"{printable(name)}/bad{printable(name)}"
    assert item.name.isprintable()
    assert len(str(data.report).splitlines()) == 2


def test_a_name_that_is_no_text_is_escaped(folder):
    try:
        (folder / "cats" / os.fsdecode(b"\xff\xfe.png")).write_text("no picture")
    except OSError:
        pytest.skip("this file system wants names that are text")
    assert list(reasons(load_folder(folder, size=4))) == ["cats/\\udcff\\udcfe.png"]


def test_printable_leaves_letters_alone_and_escapes_the_rest():
    assert printable("Katze \u732b <i>") == "Katze \u732b <i>"
    assert printable("a\nb\x1b\u202e") == "a\\nb\\x1b\\u202e"


def refuse_to_open(monkeypatch, name: str) -> None:
    opened = Path.open

    def refuse(self, *arguments, **options):
        if self.name == name:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)


def test_a_file_that_cannot_be_read_is_reported(folder, monkeypatch):
    refuse_to_open(monkeypatch, "3.png")
    data = load_folder(folder, size=4)
    assert reasons(data) == {f"{name}/3.png": "cannot be read (Permission denied)" for name in ("cats", "dogs")}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_rights_are_respected(folder):
    (folder / "cats" / "0.png").chmod(0)
    (folder / "birds").mkdir(mode=0)
    assert reasons(load_folder(folder, size=4)) == {
        "cats/0.png": "cannot be read (Permission denied)",
        "birds": "a class without pictures to train on: left out",
    }


def refuse_to_list(monkeypatch, name: str) -> None:
    listed = os.listdir

    def refuse(path):
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)


def test_a_class_that_cannot_be_searched_is_reported(folder, monkeypatch):
    paint(folder / "birds" / "0.png", 200)
    refuse_to_list(monkeypatch, "birds")
    found = [(item.name, item.reason) for item in load_folder(folder, size=4).report.skipped]
    assert found == [
        ("birds", "cannot be read (Permission denied)"),
        ("birds", "a class without pictures to train on: left out"),
    ]


def test_folders_that_can_be_listed_but_not_looked_at_are_reported(folder, monkeypatch):
    looked = Path.lstat

    def refuse(self):
        if self.name in ("birds", "cats"):
            raise PermissionError(13, "Permission denied")
        return looked(self)

    paint(folder / "birds" / "0.png", 200)
    monkeypatch.setattr(Path, "lstat", refuse)
    with pytest.raises(DataError, match=r"only the class 'dogs'.*birds: cannot be read \(Permission denied\); cats: "):
        load_folder(folder, size=4)


def test_a_folder_that_cannot_be_searched_is_an_error(folder, monkeypatch):
    refuse_to_list(monkeypatch, folder.name)
    with pytest.raises(DataError, match=r"pictures cannot be read \(Permission denied\)\.$"):
        load_folder(folder)


def test_a_file_that_is_too_long_is_not_read_whole(folder, monkeypatch):
    monkeypatch.setattr(picture_folder, "MAX_BYTES", 1 << 20)
    with (folder / "cats" / "long.png").open("wb") as file:
        file.truncate(1 << 34)  # sparse: it takes no room
    assert reasons(load_folder(folder, size=4)) == {"cats/long.png": "longer than 1 MiB"}


def test_files_beside_the_parts_are_reported(parted):
    paint(parted / "stray.png", 1)
    paint(parted / "cats" / "0.png", 2)
    assert reasons(load_folder(parted, size=4)) == {
        "cats": "lies outside train, validation and test",
        "stray.png": "lies outside train, validation and test",
    }


def test_a_class_without_training_pictures_is_left_out_of_all_parts(parted):
    (parted / "train" / "birds").mkdir()
    paint(parted / "validation" / "birds" / "0.png", 222)
    data = load_folder(parted, size=4)
    assert data.classes == ("cats", "dogs")
    assert reasons(data) == {
        "birds": "a class without pictures to train on: left out",
        "validation/birds/0.png": "a class without pictures to train on",
    }


def test_a_report_shows_twenty_lines_and_counts_the_rest():
    report = Report(5, tuple(Skipped(f"f{i}", "why") for i in range(1_234)))
    lines = str(report).splitlines()
    assert lines[:2] == ["5 pictures are used; 1,234 files and folders are not.", "  f0: why"]
    assert lines[-1] == "  ... and 1,214 more, see .skipped"
    assert len(lines) == 22
    assert str(Report(5)) == "5 pictures are used; 0 files and folders are not."


# When nothing can be done.


def test_there_must_be_a_folder(tmp_path):
    for name in ("missing", "file\n"):
        (tmp_path / "file\n").touch()
        with pytest.raises(DataError) as caught:
            load_folder(tmp_path / name)
        assert str(caught.value).endswith(
            f"{printable(name)} is no folder. Name a folder with one folder for each class."
        )
        assert str(caught.value).isprintable()


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"^no pictures are left; expected a folder for each of two classes or more"):
        load_folder(tmp_path)


def test_if_nothing_is_left_the_error_names_what_was_skipped(tmp_path):
    for number in range(5):
        path = tmp_path / "cats" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_text("no picture")
    with pytest.raises(DataError) as caught:
        load_folder(tmp_path)
    message = str(caught.value)
    assert message.startswith("no pictures are left;")
    assert message.endswith("cats/2.jpg: no picture in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF); and 3 more.")
    assert "Not used: cats/0.jpg: no picture" in message


def test_a_single_class_is_an_error(folder):
    shutil.rmtree(folder / "dogs")
    with pytest.raises(DataError, match=r"^there is only the class 'cats'; expected a folder for each of two classes"):
        load_folder(folder)


def test_a_train_folder_without_validation_is_a_single_class(parted):
    shutil.rmtree(parted / "validation")
    with pytest.raises(DataError, match="or folders train and validation that hold such folders"):
        load_folder(parted)


def test_a_class_must_be_in_every_part(parted):
    shutil.rmtree(parted / "validation" / "dogs")
    with pytest.raises(DataError, match=r"^the folder 'validation' has no pictures of the class 'dogs', and a score"):
        load_folder(parted)


def test_a_class_must_have_a_picture_for_every_part(folder):
    for number in range(8):
        (folder / "dogs" / f"{number}.png").unlink()
    message = (
        r"^the class 'dogs' has too few pictures \(2\); expected at least 3, one for each of train, validation, test"
    )
    with pytest.raises(DataError, match=message):
        load_folder(folder)
    assert len(load_folder(folder, test=0).validation) == 3


@pytest.mark.parametrize(("validation", "test"), [(0, 0.2), (0.5, 0.5), (0.2, -0.1), (1.0, 0), (float("nan"), 0.2)])
def test_shares_must_leave_something(folder, validation, test):
    with pytest.raises(ValueError, match=r"^validation = .* and test = .*; expected shares above 0"):
        load_folder(folder, validation=validation, test=test)


def test_a_file_that_goes_bad_later_is_named(folder):
    data = load_folder(folder, size=4)
    for path in (folder / "dogs").iterdir():
        path.write_text("gone")
    with pytest.raises(DataError, match=r"^dogs/\d\.png has changed since the folder was searched: no picture"):
        data.train.all()
    shutil.rmtree(folder / "dogs")
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)\. Load it again\.$"):
        data.train.all()


# Crops.


@pytest.fixture(scope="module")
def crops():
    return load_crops(16, train=60, validation=40, test=40)


def test_no_pixel_is_in_two_splits(crops):
    """Mark the pixels of every crop in a picture of the photograph, and look where the marks meet."""
    for label in (0, 1):
        used = {}
        for name, pictures in crops.splits().items():
            used[name] = np.zeros((427, 640), bool)
            for (left, top, right, bottom), its in zip(pictures.edges(), pictures.labels, strict=True):
                assert 64 <= right - left == bottom - top <= 128
                if its == label:
                    used[name][top:bottom, left:right] = True
        assert not (used["train"] & used["validation"]).any()
        assert not (used["train"] & used["test"]).any()
        assert not (used["validation"] & used["test"]).any()
        assert min(marks.mean() for marks in used.values()) > 0.15


def test_nothing_beside_a_crop_shows_in_it(monkeypatch):
    """Paint the columns that belong to another split: no crop may change."""
    before = load_crops(16, train=20, validation=20, test=20)
    both = load_sample_images()
    both.images = [np.array(image) for image in both.images]
    for image in both.images:
        image[:, 320:480] = 255 - image[:, 320:480]
    monkeypatch.setattr("sklearn.datasets.load_sample_images", lambda: both)
    after = load_crops(16, train=20, validation=20, test=20)
    np.testing.assert_array_equal(after.train.all()[0], before.train.all()[0])
    np.testing.assert_array_equal(after.test.all()[0], before.test.all()[0])
    assert not np.array_equal(after.validation.all()[0], before.validation.all()[0])


def test_a_crop_at_its_own_size_is_the_photograph_itself():
    data = load_crops(64, train=10, validation=2, test=2, sides=(64, 64))
    originals = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    assert data.classes == ("china", "flower")
    for index, (left, top, right, bottom) in enumerate(data.train.edges()):
        original = originals[data.classes[data.train.labels[index]]]
        np.testing.assert_array_equal(data.train.read(index), original[top:bottom, left:right])


def test_crops_are_balanced_and_hang_on_their_seed_only(crops):
    assert [int(p.labels.sum()) for p in crops.splits().values()] == [30, 20, 20]
    np.random.default_rng(5).random()
    assert load_crops(16, train=60, validation=40, test=40).describe() == crops.describe()
    assert load_crops(16, train=60, validation=40, test=40, seed=1).describe() != crops.describe()
    assert load_crops(17, train=60, validation=40, test=40).describe() != crops.describe()
    assert len(set(crops.train.edges())) > 55


def test_the_parts_may_be_exchanged():
    data = load_crops(8, train=4, validation=4, test=4, parts=PARTS_OF_PHOTOGRAPH[::-1])
    assert all(left >= 480 for left, _, _, _ in data.train.edges())
    assert all(right <= 320 for _, _, right, _ in data.test.edges())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be at least 1, got 0"),
        ({"train": 1}, "train must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"parts": ((0, 320),)}, "parts has 1 entries; expected three"),
        ({"parts": ((0, 320), (300, 480), (480, 640))}, "parts overlap: one begins at column 300, before 320"),
        ({"parts": ((0, 320), (320, 400), (480, 640))}, "parts has the columns 320 to 400; expected at least 128"),
        ({"parts": ((0, 320), (320, 480), (480, 641))}, "parts has the columns 480 to 641"),
        ({"parts": ((-1, 320), (320, 480), (480, 640))}, "parts has the columns -1 to 320"),
        ({"sides": (0, 64)}, r"sides = \(0, 64\); expected a smallest and a largest side, from 1 to 427"),
        ({"sides": (65, 64)}, r"sides = \(65, 64\)"),
        ({"sides": (64, 428)}, r"sides = \(64, 428\)"),
    ],
)
def test_impossible_crops_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load_crops(**options)


def test_files_have_no_edges(folder):
    with pytest.raises(TypeError, match=r"these pictures are files; only crops have edges\."):
        load_folder(folder, size=4).train.edges()


def test_either_source_by_its_name(folder):
    assert load_photographs(size=8).name == CROPS
    assert load_photographs(folder, size=8).name == "folder"
    assert "danielbuechele" in load_photographs(size=8).source


# Batches.


def test_batches_pass_once_over_all_pictures_in_an_order_of_their_own(crops):
    images, labels = crops.train.all()
    for epoch in (0, 1):
        batches = list(photograph_batches(crops.train, 7, seed=3, epoch=epoch))
        assert [len(b) for _, b in batches] == [7] * 8 + [4]
        order = np.random.default_rng((3, epoch)).permutation(60)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), images[order])
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), labels[order])


def test_augmented_pictures_hang_on_seed_epoch_and_picture_only(crops):
    def augmented(size, epoch, seed=0):
        return np.concatenate(
            [x for x, _ in photograph_batches(crops.train, size, seed=seed, epoch=epoch, shuffle=False, augment=True)]
        )

    first = augmented(7, 0)
    np.testing.assert_array_equal(augmented(20, 0), first)
    plain = crops.train.all()[0]
    for other in (plain, augmented(7, 1), augmented(7, 0, seed=1)):
        assert np.mean(np.any(first != other, axis=(1, 2, 3))) > 0.9


def test_no_picture_s_augmentation_shares_its_numbers_with_the_order(monkeypatch, crops):
    """NumPy makes the same generator of (3, 4) and of (3, 4, 0)."""
    windows = []
    monkeypatch.setattr(photographs, "_window", lambda rng: windows.append(rng.random()) or (photographs.WHOLE, False))
    list(photograph_batches(crops.train, 60, seed=3, epoch=4, augment=True))
    assert np.random.default_rng((3, 4)).random() not in windows
    assert len(set(windows)) == 60


def test_augmentation_moves_and_mirrors_a_little():
    """A ramp from left to right tells which columns show, and whether they are mirrored."""
    ramp = np.repeat(np.linspace(0, 250, 100).astype(np.uint8)[None, :, None], 100, axis=0).repeat(3, axis=2)

    class Ramp:
        digest = b""

        def read(self, size, *, box, flip):
            return photographs.as_pixels(Image.fromarray(ramp), size, box=box, flip=flip)

    pictures = Pictures([Ramp()] * 400, np.zeros(400, np.int64), 50)
    ((images, _),) = photograph_batches(pictures, 400, augment=True, shuffle=False)
    left, right = images[:, 25, 0, 0] * 255, images[:, 25, -1, 0] * 255
    mirrored = left > right
    assert 0.4 < mirrored.mean() < 0.6
    width = np.abs(right - left) / 250
    assert width.min() > 0.75
    assert width.max() < 1.0
    assert np.ptp(np.minimum(left, right)) > 35  # it moves


def test_only_one_batch_is_in_memory(crops):
    pictures = Pictures(crops.train._sources, crops.train.labels, 128)
    one_batch = 5 * 128 * 128 * 3 * 4
    tracemalloc.start()
    for images, _ in photograph_batches(pictures, 5, seed=0, augment=True):
        assert images.nbytes == one_batch
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * one_batch  # all twelve batches would take twelve


def test_pictures_are_decoded_only_when_their_batch_comes(folder, monkeypatch):
    data = load_folder(folder, size=4)
    read = []

    def note(found, size, **how):
        read.append(found.name)
        return np.zeros((size, size, 3))

    monkeypatch.setattr(photographs, "read_picture", note)
    batches = photograph_batches(data.train, 5)
    assert read == []
    next(batches)
    assert len(read) == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be a whole number, got 2.0"),
        ({"batch_size": 2, "seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"batch_size": 2, "epoch": True}, TypeError, "epoch must be a whole number, got True"),
        ({"pictures": [], "batch_size": 2}, TypeError, r"pictures must be a bncourse\.data\.photographs\.Pictures"),
    ],
)
def test_impossible_batches_are_refused_at_the_call(crops, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        photograph_batches(**{"pictures": crops.train, **options})


def test_labels_cannot_be_overwritten(crops):
    with pytest.raises(ValueError, match="read-only"):
        crops.train.labels[0] = 1
    assert repr(crops.train) == "Pictures(60 pictures of 16x16 pixels)"


def test_the_checksum_tells_labels_apart(crops):
    pictures = crops.train
    other = Pictures(pictures._sources, 1 - pictures.labels, pictures.size)
    assert other.checksum() != pictures.checksum()
    assert pictures.checksum() == Pictures(pictures._sources, pictures.labels, pictures.size).checksum()


def test_progress_is_shown_on_standard_error(folder, capsys):
    load_folder(folder, size=4, progress=True)
    assert "pictures: 20file" in capsys.readouterr().err
    load_folder(folder, size=4)
    assert capsys.readouterr().err == ""


def test_the_module_loads_neither_pillow_nor_tensorflow():
    program = (
        "import sys, bncourse.data.photographs; "
        "sys.exit(len({'PIL', 'tensorflow', 'keras', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
