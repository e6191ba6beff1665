"""Fashion-MNIST from files, and the IDX format with every way in which it can be wrong."""

from __future__ import annotations

import gzip
import os
import re
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bncourse.data import DataError, load_fashion_mnist
from bncourse.data.idx import read_idx

NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
REMEDY = "Put a whole one in its place, or delete it to have the data looked for elsewhere"


# ---- the data set ----------------------------------------------------------------------------------------------


def test_images_are_scaled_and_in_file_order(write_fashion, arrays, tmp_path):
    write_fashion(tmp_path)
    data = load_fashion_mnist(folder=tmp_path, validation=5)
    for split, x, y in (
        (data.validation, arrays["x_train"][:5], arrays["y_train"][:5]),
        (data.train, arrays["x_train"][5:], arrays["y_train"][5:]),
        (data.test, arrays["x_test"], arrays["y_test"]),
    ):
        np.testing.assert_allclose(split.images[..., 0], x / 255, rtol=1e-7)
        np.testing.assert_array_equal(split.labels, y)


def test_name_classes_and_source(write_fashion, tmp_path):
    write_fashion(tmp_path)
    data = load_fashion_mnist(folder=tmp_path, validation=5)
    assert data.name == "fashion-mnist"
    assert (data.classes[0], data.classes[9], len(data.classes)) == ("T-shirt/top", "Ankle boot", 10)
    assert data.source.endswith("from the folder given as argument")
    assert str(tmp_path) not in data.source + repr(data)


@pytest.mark.parametrize(
    ("where", "words"),
    [("variable", "from the folder that BNCOURSE_DATA names"), ("cache", "from Keras's cache")],
)
def test_other_places(write_fashion, cache, tmp_path, monkeypatch, where, words):
    monkeypatch.setenv("BNCOURSE_DATA", str(tmp_path))
    write_fashion(tmp_path if where == "variable" else cache)
    assert load_fashion_mnist(validation=5).source.endswith(words)


def test_nowhere_and_no_download(cache, tmp_path):
    with pytest.raises(DataError, match="Fashion-MNIST was not found, and download=False") as caught:
        load_fashion_mnist(folder=tmp_path, download=False)
    message = str(caught.value)
    for part in (f"fashion-mnist/{{{', '.join(NAMES)}}}", str(tmp_path), str(cache), "load_digits()"):
        assert part in message


@pytest.mark.parametrize("there", [NAMES[:1], NAMES[1:], NAMES[::2]])
def test_a_part_of_the_files_is_an_error(write_fashion, cache, tmp_path, there):
    write_fashion(cache)  # whole, but the reader's own folder comes first
    write_fashion(tmp_path, there)
    missing = ", ".join(name for name in NAMES if name not in there)
    with pytest.raises(DataError, match=rf"only in part; missing: {re.escape(missing)}\. Add what is missing"):
        load_fashion_mnist(folder=tmp_path, validation=5)


def test_files_are_not_gathered_from_several_places(write_fashion, cache, tmp_path):
    write_fashion(cache, NAMES[2:])
    write_fashion(tmp_path, NAMES[:2])
    with pytest.raises(DataError, match="only in part"):
        load_fashion_mnist(folder=tmp_path, validation=5)


def test_a_file_in_place_of_the_subfolder(tmp_path):
    (tmp_path / "fashion-mnist").touch()
    with pytest.raises(DataError, match=r"fashion-mnist is not a folder, but Fashion-MNIST belongs"):
        load_fashion_mnist(folder=tmp_path)


def test_validation_too_large(write_fashion, tmp_path):
    write_fashion(tmp_path)
    with pytest.raises(DataError, match=r"number of training images in the file, 12, .* got 5000"):
        load_fashion_mnist(folder=tmp_path)


def test_impossible_validation(tmp_path):
    with pytest.raises(ValueError, match="validation must be at least 1, got 0"):
        load_fashion_mnist(folder=tmp_path, validation=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_and_left_alone(write_fashion, tmp_path, name):
    file = write_fashion(tmp_path) / name
    file.write_bytes(b"half a fi")
    with pytest.raises(DataError, match="cannot be unpacked") as caught:
        load_fashion_mnist(folder=tmp_path, validation=5)
    assert str(file) in str(caught.value)
    assert REMEDY in str(caught.value)
    assert file.read_bytes() == b"half a fi"


def test_images_and_labels_that_disagree(write_fashion, as_idx, tmp_path):
    file = write_fashion(tmp_path) / NAMES[3]
    file.write_bytes(gzip.compress(as_idx(np.zeros(5, np.uint8))))
    with pytest.raises(DataError, match=r"t10k-labels.*: it has 5 labels for 4 images; expected one label an image"):
        load_fashion_mnist(folder=tmp_path, validation=5)


def test_label_out_of_range(write_fashion, as_idx, tmp_path):
    file = write_fashion(tmp_path) / NAMES[1]
    file.write_bytes(gzip.compress(as_idx(np.full(12, 200, np.uint8))))
    with pytest.raises(DataError, match=r"train-labels.*: it has the label 200; expected labels from 0 to 9"):
        load_fashion_mnist(folder=tmp_path, validation=5)


# ---- the format ------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    return tmp_path / "some-ubyte.gz"


@pytest.mark.parametrize("images", [True, False])
def test_round_trip(file, as_idx, arrays, images):
    array = arrays["x_train" if images else "y_train"]
    file.write_bytes(gzip.compress(as_idx(array)))
    np.testing.assert_array_equal(read_idx(file, images=images), array)


def test_bytes_written_by_hand(file):
    file.write_bytes(gzip.compress(bytes((0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9))))
    assert read_idx(file, images=False).tolist() == [7, 8, 9]


HEAD = bytes((0, 0, 8, 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"it starts with nothing; expected 00 00 08 01 \(IDX\)"),
        (HEAD[:2], "it starts with 00 00; expected 00 00 08 01"),
        (bytes((0, 0, 8, 3)) + bytes(20), "it starts with 00 00 08 03; expected 00 00 08 01"),
        (bytes((0, 0, 13, 1)) + bytes(20), "it starts with 00 00 0d 01"),
        (bytes((8, 1, 0, 0)) + bytes(20), "it starts with 08 01 00 00"),
        (HEAD + bytes(3), "its header has 7 bytes; expected 8"),
        (HEAD + bytes(4), r"it has the shape \(0,\); expected \(n,\) with n from 1 to 100000"),
        (HEAD + b"\xff\xff\xff\xff", r"it has the shape \(4294967295,\)"),
        (HEAD + bytes((3, 0, 0, 0)) + bytes(3), r"it has the shape \(50331648,\)"),  # wrong byte order
        (HEAD + bytes((0, 0, 0, 3)) + b"ab", r"only 2 bytes after the header; expected 3 for shape \(3,\)"),
        (HEAD + bytes((0, 0, 0, 3)) + b"abcd", "more bytes than that after the header; expected 3"),
    ],
)
def test_wrong_labels_file(file, content, message):
    file.write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(file, images=False)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("shape", [(2, 28, 27), (2, 27, 28), (2, 784, 1), (100_001, 28, 28)])
def test_wrong_image_shape(file, shape):
    header = bytes((0, 0, 8, 3)) + b"".join(size.to_bytes(4, "big") for size in shape)
    file.write_bytes(gzip.compress(header))
    with pytest.raises(DataError, match=r"expected \(n, 28, 28\) with n from 1 to 100000"):
        read_idx(file, images=True)


def test_not_packed(file, as_idx):
    file.write_bytes(as_idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match=r"cannot be unpacked .*; expected a whole gzipped IDX file"):
        read_idx(file, images=False)


@given(share=st.floats(0, 1, exclude_max=True))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_truncated_anywhere(file, as_idx, arrays, share):
    whole = gzip.compress(as_idx(arrays["x_test"]))
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match=REMEDY):
        read_idx(file, images=True)


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_an_altered_byte_is_noticed_or_does_not_matter(file, as_idx, arrays, place, flip):
    altered = bytearray(gzip.compress(as_idx(arrays["x_test"])))
    altered[int(place * len(altered))] ^= flip
    file.write_bytes(altered)
    try:
        got = read_idx(file, images=True)
    except DataError:
        return
    np.testing.assert_array_equal(got, arrays["x_test"])


def test_broken_compression(file, as_idx):
    broken = bytearray(gzip.compress(as_idx(np.zeros(300, np.uint8))))
    broken[10] = 0xFF  # a block of the type 3, which does not exist
    file.write_bytes(broken)
    with pytest.raises(DataError, match=r"cannot be unpacked \(.*invalid block type"):
        read_idx(file, images=False)


def test_garbage_after_the_packed_part(file, as_idx):
    file.write_bytes(gzip.compress(as_idx(np.zeros(3, np.uint8))) + b"garbage")
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_idx(file, images=False)


def test_gzip_bomb_costs_no_memory(file):
    file.write_bytes(gzip.compress(HEAD + bytes((0, 0, 0, 3)) + bytes(50_000_000), compresslevel=1))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more bytes than that"):
            read_idx(file, images=False)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_dangling_link(file, tmp_path):
    file.symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match="cannot be unpacked"):
        read_idx(file, images=False)
