"""Fashion-MNIST, in the files that Keras uses."""

from __future__ import annotations

import os

from bncourse.data._checks import whole_number
from bncourse.data.idx import read_idx
from bncourse.data.keras_files import FileSet, obtain
from bncourse.data.keras_layout import RawSplit, assemble, check_labels
from bncourse.data.splits import Dataset

_IMAGES, _LABELS = "{}-images-idx3-ubyte.gz", "{}-labels-idx1-ubyte.gz"
_TRAIN, _TEST = "train", "t10k"
#: The checksums are those that the publisher prints beside the files; Keras itself compares none.
FILES = FileSet(
    title="Fashion-MNIST",
    subfolder="fashion-mnist",
    checksums={
        _IMAGES.format(_TRAIN): "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        _LABELS.format(_TRAIN): "25c81989df183df01b3e8a0aad5dffbe",
        _IMAGES.format(_TEST): "bef4ecab320f06d8554ea6380940ec79",
        _LABELS.format(_TEST): "bb300cfdad3c16e7a12a480ee83cd310",
    },
    algorithm="md5",
)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def load_fashion_mnist(
    *, folder: str | os.PathLike[str] | None = None, download: bool = True, validation: int = 5000
) -> Dataset:
    """Return Fashion-MNIST: 70,000 pictures of clothes, in the sizes of MNIST.

    Its four files are looked for in the subfolder ``fashion-mnist`` of the places where `load_mnist` looks, and
    downloaded by Keras if no place has any of them. All four must lie in the same folder.

    Parameters
    ----------
    folder
        A folder that may hold the subfolder ``fashion-mnist``.
    download
        Whether the network may be used. The download is 31 MB and needs Keras. Its MD5 checksums must be the
        publisher's.
    validation
        How many of the training images, the first ones in file order, become the validation split.

    Returns
    -------
    Dataset
        55,000 training, 5,000 validation and 10,000 test images; pixels divided by 255.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible.
    DataError
        If the files are found nowhere and cannot be downloaded, or if only some are there, or if one is damaged or
        too small for `validation`.

    References
    ----------
    H. Xiao, K. Rasul, R. Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms, arXiv:1708.07747.
    """
    validation = whole_number("validation", validation, at_least=1)
    home, place = obtain(FILES, folder=folder, download=download)
    splits = {}
    for part in (_TRAIN, _TEST):
        file = home / _LABELS.format(part)
        raw = RawSplit(images=read_idx(home / _IMAGES.format(part), images=True), labels=read_idx(file, images=False))
        check_labels(file, "it", raw)
        splits[part] = raw
    return assemble(
        "fashion-mnist",
        splits[_TRAIN],
        splits[_TEST],
        validation=validation,
        classes=CLASSES,
        source=f"Fashion-MNIST of Zalando Research, in the four IDX files that Keras uses, from {place}",
    )
