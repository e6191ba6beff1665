"""The real MNIST, in Keras's own file."""

from __future__ import annotations

import os

from bncourse.data._checks import whole_number
from bncourse.data.keras_files import FileSet, obtain
from bncourse.data.keras_layout import assemble
from bncourse.data.npz import read_npz
from bncourse.data.splits import Dataset

_FILE = "mnist.npz"
#: The checksum is the one that ``keras.datasets.mnist`` demands.
FILES = FileSet(
    title="MNIST",
    subfolder="",
    checksums={_FILE: "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"},
    algorithm="sha256",
)


def load_mnist(
    *, folder: str | os.PathLike[str] | None = None, download: bool = True, validation: int = 5000
) -> Dataset:
    """Return MNIST: 70,000 handwritten digits.

    The file ``mnist.npz`` is looked for in `folder`, then in the folder that the environment variable BNCOURSE_DATA
    names, then in Keras's cache (``$KERAS_HOME/datasets`` or ``~/.keras/datasets``). If none has it, Keras downloads
    it into its cache. A file that is there is used or refused, never passed over. A subset in the same layout is
    welcome; only what is downloaded must be the official file, by its SHA-256.

    Parameters
    ----------
    folder
        A folder that may hold ``mnist.npz``.
    download
        Whether the network may be used. The download is 11 MB and needs Keras.
    validation
        How many of the training images, the first ones in file order, become the validation split: 5,000 in the
        TensorFlow tutorials' loader and in the articles that this course follows.

    Returns
    -------
    Dataset
        55,000 training, 5,000 validation and 10,000 test images; pixels divided by 255.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible.
    DataError
        If the file is found nowhere and cannot be downloaded, or if it is damaged, or too small for `validation`.

    References
    ----------
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), Gradient-based learning applied to document recognition.
    """
    validation = whole_number("validation", validation, at_least=1)
    home, place = obtain(FILES, folder=folder, download=download)
    train, test = read_npz(home / _FILE)
    return assemble(
        "mnist",
        train,
        test,
        validation=validation,
        classes=tuple("0123456789"),
        source=f"MNIST of LeCun, Cortes and Burges, in Keras's file {_FILE}, from {place}",
    )
