"""The room as a whole: names, and what importing it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bncourse import data


def test_load_by_name(write_mnist, write_fashion, tmp_path):
    write_mnist(tmp_path / "mine")
    write_fashion(tmp_path / "mine")
    assert [data.load("digits").name] == ["digits"]
    for name in ("mnist", "fashion-mnist"):
        assert data.load(name, folder=tmp_path / "mine", validation=2).name == name


def test_names():
    assert data.NAMES == ("digits", "mnist", "fashion-mnist")


@pytest.mark.parametrize("name", ["cifar", "MNIST", None, ["digits"]])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="name must be one of 'digits', 'mnist', 'fashion-mnist'; got"):
        data.load(name)


def test_digits_take_no_options():
    with pytest.raises(TypeError, match="'digits' takes no options, got folder, validation"):
        data.load("digits", validation=3, folder=None)


def test_everything_in_all_exists():
    assert all(hasattr(data, name) for name in data.__all__)


def test_loading_needs_no_heavy_library(write_mnist, tmp_path):
    """Importing, the digits and a file of one's own: neither TensorFlow nor Keras nor Matplotlib."""
    write_mnist(tmp_path)
    program = (
        "import sys\n"
        "from bncourse import data\n"
        "imported = set(sys.modules)\n"
        "data.load('digits')\n"
        f"data.load('mnist', folder={str(tmp_path)!r}, validation=2)\n"
        "heavy = {'tensorflow', 'keras', 'tf_keras', 'matplotlib', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)), 'sklearn' in imported)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[] False\n", "")
