"""MNIST from files: where they are looked for, and every way in which a file can be wrong."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bncourse.data import DataError, load_mnist
from bncourse.data.keras_files import places
from bncourse.data.keras_layout import MAX_IMAGES

REMEDY = "Put a whole one in its place, or delete it to have the data looked for elsewhere"


def load_from(folder: Path, **options):
    options = {"validation": 5, "download": False, **options}
    return load_mnist(folder=folder, **options)


# ---- what a good file gives ------------------------------------------------------------------------------------


def test_images_are_scaled_and_in_file_order(write_mnist, arrays, tmp_path):
    write_mnist(tmp_path)
    data = load_from(tmp_path)
    for split, x, y in (
        (data.validation, arrays["x_train"][:5], arrays["y_train"][:5]),
        (data.train, arrays["x_train"][5:], arrays["y_train"][5:]),
        (data.test, arrays["x_test"], arrays["y_test"]),
    ):
        np.testing.assert_allclose(split.images[..., 0], x / 255, rtol=1e-7)
        np.testing.assert_array_equal(split.labels, y)


def test_name_classes_and_source(write_mnist, tmp_path):
    write_mnist(tmp_path)
    data = load_from(tmp_path)
    assert (data.name, data.classes) == ("mnist", tuple("0123456789"))
    assert "mnist.npz, from the folder given as argument" in data.source
    assert str(tmp_path) not in data.source + repr(data)


def test_cannot_be_made_writable(write_mnist, tmp_path):
    write_mnist(tmp_path)
    data = load_from(tmp_path)
    for array in (data.train.images, data.train.labels, data.test.images):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.setflags(write=True)


def test_fortran_order_and_uncompressed(arrays, tmp_path):
    np.savez(tmp_path / "mnist.npz", **{k: np.asfortranarray(v) for k, v in arrays.items()})
    np.testing.assert_allclose(load_from(tmp_path).test.images[..., 0], arrays["x_test"] / 255, rtol=1e-7)


def test_further_arrays_are_ignored(write_mnist, tmp_path):
    write_mnist(tmp_path, notes=np.array(["x"], dtype=object))
    assert len(load_from(tmp_path).test) == 4


def test_a_single_test_image(write_mnist, arrays, tmp_path):
    write_mnist(tmp_path, x_test=arrays["x_test"][:1], y_test=arrays["y_test"][:1])
    assert len(load_from(tmp_path).test) == 1


# ---- where it is looked for ------------------------------------------------------------------------------------


@pytest.fixture
def three_places(write_mnist, arrays, cache, tmp_path, monkeypatch) -> list[Path]:
    """A file in each place, told apart by the number of its test images: 1, 2, 3."""
    folders = [tmp_path / "argument", tmp_path / "variable", cache]
    for n, folder in enumerate(folders, start=1):
        write_mnist(folder, x_test=arrays["x_test"][:n], y_test=arrays["y_test"][:n])
    monkeypatch.setenv("BNCOURSE_DATA", str(folders[1]))
    return [folder / "mnist.npz" for folder in folders]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (0, "from the folder given as argument"),
        (1, "from the folder that BNCOURSE_DATA names"),
        (2, "from Keras's cache"),
    ],
)
def test_order_of_the_places(three_places, gone, words):
    for file in three_places[:gone]:
        file.unlink()
    data = load_from(three_places[0].parent)
    assert len(data.test) == gone + 1
    assert data.source.endswith(words)


def test_environment_variable_alone(three_places):
    assert len(load_mnist(validation=5).test) == 2


def test_home_folder_without_keras_home(write_mnist, tmp_path, monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_mnist(tmp_path / ".keras" / "datasets")
    assert len(load_mnist(validation=5).train) == 7


def test_tilde_is_expanded(write_mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("BNCOURSE_DATA", "~/mine")
    write_mnist(tmp_path / "mine")
    assert len(load_mnist(validation=5).train) == 7


def test_empty_variable_counts_as_unset(write_mnist, cache, monkeypatch):
    monkeypatch.setenv("BNCOURSE_DATA", "")
    write_mnist(cache)
    assert "Keras's cache" in load_mnist(validation=5).source


@pytest.mark.parametrize("kind", ["file", "nothing"])
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_place_that_is_no_folder(write_mnist, cache, tmp_path, monkeypatch, kind, by):
    write_mnist(cache)  # would do, but the reader named another place
    place = tmp_path / "place"
    if kind == "file":
        place.touch()
    if by == "variable":
        monkeypatch.setenv("BNCOURSE_DATA", str(place))
    with pytest.raises(DataError, match=r"place, the folder .*, is not a folder\. Name an existing one"):
        load_mnist(folder=place if by == "argument" else None, validation=5)


def test_folder_of_another_type():
    with pytest.raises(TypeError, match="folder must be a path or None, got 3"):
        load_mnist(folder=3)


def test_nowhere_and_no_download(cache, tmp_path):
    with pytest.raises(DataError, match="MNIST was not found, and download=False") as caught:
        load_from(tmp_path)
    message = str(caught.value)
    for part in ("mnist.npz", str(tmp_path), str(cache), "set BNCOURSE_DATA to a folder", "load_digits()"):
        assert part in message


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_file_is_never_passed_over(three_places, place):
    for file in three_places[:place]:
        file.unlink()
    three_places[place].write_bytes(b"half a fi")
    with pytest.raises(DataError, match=REMEDY) as caught:
        load_from(three_places[0].parent)
    assert str(three_places[place]) in str(caught.value)
    assert three_places[place].read_bytes() == b"half a fi"


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_dangling_link_counts_as_a_damaged_file(three_places, tmp_path):
    three_places[0].unlink()
    three_places[0].symlink_to(tmp_path / "gone.npz")
    with pytest.raises(DataError, match="cannot be read"):
        load_from(three_places[0].parent)


# ---- validation ------------------------------------------------------------------------------------------------


def test_one_training_image_is_enough(write_mnist, tmp_path):
    write_mnist(tmp_path)
    assert len(load_from(tmp_path, validation=11).train) == 1


@pytest.mark.parametrize("validation", [12, 5000])
def test_validation_too_large(write_mnist, tmp_path, validation):
    write_mnist(tmp_path)
    with pytest.raises(DataError, match=f"smaller than the number of training images in the file, 12, .* {validation}"):
        load_from(tmp_path, validation=validation)


@pytest.mark.parametrize(
    ("validation", "error", "message"),
    [
        (0, ValueError, "validation must be at least 1, got 0"),
        (-3, ValueError, "validation must be at least 1, got -3"),
        (0.1, TypeError, r"validation must be a whole number, got 0\.1"),
        (True, TypeError, "validation must be a whole number, got True"),
    ],
)
def test_impossible_validation_fails_before_any_file_is_looked_for(validation, error, message, tmp_path):
    with pytest.raises(error, match=message):
        load_from(tmp_path, validation=validation)


# ---- wrong contents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, r"mnist\.npz: y_test is missing; expected .*\(\.npz\) with the arrays x_train, y_train"),
        ({"x_train": np.zeros((12, 784), np.uint8)}, r"x_train has the shape \(12, 784\); expected \(n, 28, 28\)"),
        ({"x_train": np.zeros((12, 28, 27), np.uint8)}, r"x_train has the shape \(12, 28, 27\)"),
        ({"x_test": np.zeros((4, 28, 28, 1), np.uint8)}, r"x_test has the shape \(4, 28, 28, 1\)"),
        ({"x_test": np.zeros((0, 28, 28), np.uint8)}, r"x_test has the shape \(0, 28, 28\); .* n from 1 to 100000"),
        ({"y_train": np.zeros((12, 10), np.uint8)}, r"y_train has the shape \(12, 10\); expected \(n,\)"),
        ({"y_train": np.uint8(3)}, r"y_train has the shape \(\)"),
        ({"x_train": np.zeros((12, 28, 28))}, "x_train is an array of float64; expected an array of uint8"),
        ({"y_test": np.zeros(4, np.int64)}, "y_test is an array of int64; expected an array of uint8"),
        ({"y_test": np.array([0, 1, 2, 10], np.uint8)}, "y_test has the label 10; expected labels from 0 to 9"),
        ({"y_train": np.zeros(11, np.uint8)}, "y_train has 11 labels for 12 images; expected one label an image"),
        ({"y_test": np.zeros(5, np.uint8)}, "y_test has 5 labels for 4 images"),
    ],
)
def test_wrong_arrays(write_mnist, tmp_path, changes, message):
    write_mnist(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as caught:
        load_from(tmp_path)
    assert REMEDY in str(caught.value)


def test_the_whole_message(write_mnist, tmp_path):
    file = write_mnist(tmp_path, y_test=None)
    with pytest.raises(DataError) as caught:
        load_from(tmp_path)
    assert str(caught.value) == (
        f"{file}: y_test is missing; expected a NumPy archive (.npz) with the arrays x_train, y_train, x_test, y_test. "
        "The file was left as it is. Put a whole one in its place, or delete it to have the data looked for elsewhere."
    )


class Trap:
    """Unpickling it leaves a trace."""

    def __reduce__(self):
        return (os.mkdir, ("sprung",))


def test_pickled_arrays_are_refused_unread(write_mnist, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path, y_test=np.array([Trap()], dtype=object))
    with pytest.raises(DataError, match="y_test holds pickled Python objects, which could run code"):
        load_from(tmp_path)
    assert not Path("sprung").exists()


def test_a_pickle_in_place_of_the_archive(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="cannot be read"):
        load_from(tmp_path)
    assert not Path("sprung").exists()


def test_a_folder_in_place_of_the_file(tmp_path):
    (tmp_path / "mnist.npz").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load_from(tmp_path)


def test_empty_file(tmp_path):
    (tmp_path / "mnist.npz").touch()
    with pytest.raises(DataError, match=r"cannot be read \(File is not a zip file\)"):
        load_from(tmp_path)


# ---- altered bytes ---------------------------------------------------------------------------------------------


@given(share=st.floats(0, 1, exclude_max=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_truncated_anywhere(write_mnist, tmp_path, share):
    file = write_mnist(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=REMEDY):
        load_from(tmp_path)


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
def test_an_altered_byte_is_noticed_or_does_not_matter(write_mnist, arrays, tmp_path, place, flip):
    """Zip has bytes without meaning (dates, say); a change anywhere else must not reach the reader as data."""
    file = write_mnist(tmp_path)
    altered = bytearray(file.read_bytes())
    altered[int(place * len(altered))] ^= flip
    file.write_bytes(altered)
    try:
        data = load_from(tmp_path)
    except DataError:
        return
    np.testing.assert_array_equal(data.test.labels, arrays["y_test"])
    np.testing.assert_allclose(data.test.images[..., 0], arrays["x_test"] / 255, rtol=1e-7)
    np.testing.assert_array_equal(data.train.labels, arrays["y_train"][5:])


def test_broken_compression(write_mnist, tmp_path):
    file = write_mnist(tmp_path, x_train=np.zeros((12, 28, 28), np.uint8))
    broken = bytearray(file.read_bytes())
    name_length, extra_length = struct.unpack_from("<HH", broken, 26)
    broken[30 + name_length + extra_length] = 0xFF  # a block of the type 3, which does not exist
    file.write_bytes(broken)
    with pytest.raises(DataError, match=r"cannot be read \(.*invalid block type"):
        load_from(tmp_path)


def npy(header: str | bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def replace_member(file: Path, name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members[f"{name}.npy"] = content
    with zipfile.ZipFile(file, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def header_of(shape: str, descr: str = "|u1") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the header of y_test cannot be read"),
        (b"not numpy at all", "the header of y_test cannot be read"),
        (npy("{'descr': "), "the header of y_test cannot be read"),
        (npy("  import os\n x"), "the header of y_test cannot be read"),
        (npy(b"\xff\x00'''("), "the header of y_test cannot be read"),
        (npy(header_of("(4,)"), version=(9, 0)), "the header of y_test cannot be read"),
        (npy(header_of("(4,)") + " " * 20_000), "the header of y_test cannot be read"),
        (npy(header_of("(-4,)")), r"y_test has the shape \(-4,\)"),
        (npy(header_of("(10**9,)")), "the header of y_test cannot be read"),
        (npy(header_of("(1000000000,)")), r"y_test has the shape \(1000000000,\); .* n from 1 to 100000"),
        (npy(header_of("(4,)"), b"abc"), r"y_test has 3 bytes of data; expected 4 for shape \(4,\)"),
        (npy(header_of("(4,)"), b"abcde"), "y_test has 5 bytes of data; expected 4"),
        (npy(header_of("(4,)")), "y_test has 0 bytes of data; expected 4"),
        (npy(header_of("(4,)", "|O"), b"...."), "y_test holds pickled Python objects"),
    ],
)
def test_wrong_npy(write_mnist, tmp_path, content, message):
    replace_member(write_mnist(tmp_path), "y_test", content)
    with pytest.raises(DataError, match=message):
        load_from(tmp_path)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_versions(write_mnist, tmp_path, version):
    replace_member(write_mnist(tmp_path), "y_test", npy(header_of("(4,)"), bytes((1, 2, 3, 4)), version))
    assert load_from(tmp_path).test.labels.tolist() == [1, 2, 3, 4]


@given(st.binary(max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_any_header(write_mnist, tmp_path, header):
    replace_member(write_mnist(tmp_path), "y_test", npy(header))
    with pytest.raises(DataError, match="y_test"):
        load_from(tmp_path)


def test_zip_bomb_is_refused_before_it_is_unpacked(write_mnist, tmp_path):
    size = MAX_IMAGES * 784 + 20_000
    file = write_mnist(tmp_path)
    replace_member(file, "x_train", bytes(size))
    assert file.stat().st_size < size / 100
    with pytest.raises(DataError, match=f"x_train says that it unpacks to {size} bytes; expected at most 78410000"):
        load_from(tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compression_is_refused(write_mnist, arrays, tmp_path, method):
    buffer = io.BytesIO()
    np.save(buffer, arrays["y_test"])
    replace_member(write_mnist(tmp_path), "y_test", buffer.getvalue(), method)
    with pytest.raises(DataError, match=rf"is compressed by method {method}; expected deflate or none"):
        load_from(tmp_path)


def test_encrypted_archive(write_mnist, tmp_path):
    file = write_mnist(tmp_path)
    content = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(signature)
        content[at + offset] |= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        load_from(tmp_path)


# ---- the real one ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    """The real MNIST, if this machine has it: looked for where a reader's copy would be, without any download."""
    if not any((place.folder / "mnist.npz").is_file() for place in places(None)):
        pytest.skip("real MNIST not found: set BNCOURSE_DATA to a folder with mnist.npz")
    return load_mnist(download=False)


@pytest.mark.mnist
def test_real_sizes(real):
    assert [s.images.shape for s in (real.train, real.validation, real.test)] == [
        (55000, 28, 28, 1),
        (5000, 28, 28, 1),
        (10000, 28, 28, 1),
    ]


@pytest.mark.mnist
def test_real_class_counts(real):
    train = np.bincount(real.train.labels) + np.bincount(real.validation.labels)
    assert train.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(real.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.mnist
def test_real_first_labels(real):
    assert real.validation.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert real.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.mnist
def test_real_brightness(real):
    """Mean and standard deviation of all 60,000 training images, as widely published: 0.1307 and 0.3081."""
    images = np.concatenate([real.train.images.ravel(), real.validation.images.ravel()])
    assert images.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert images.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
