"""Real images, split once and for all, and batches of them.

`load_digits` needs no download and is what the chapters run on; `load_mnist` and `load_fashion_mnist` use the files in
Keras's layout. Importing this room loads neither TensorFlow nor Keras nor Matplotlib; a download imports Keras.
"""

from __future__ import annotations

from typing import Any

from bncourse.data.batches import batches
from bncourse.data.digits import load_digits
from bncourse.data.fashion_mnist import load_fashion_mnist
from bncourse.data.mnist import load_mnist
from bncourse.data.splits import DataError, Dataset, Split
from bncourse.nn.losses import one_hot

__all__ = [
    "NAMES",
    "DataError",
    "Dataset",
    "Split",
    "batches",
    "load",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "one_hot",
]

#: The names that `load` knows.
NAMES = ("digits", "mnist", "fashion-mnist")


def load(name: str, **options: Any) -> Dataset:
    """Return a data set by its name.

    Parameters
    ----------
    name
        ``"digits"``, ``"mnist"`` or ``"fashion-mnist"``.
    **options
        Handed to `load_mnist` or `load_fashion_mnist`; the digits take none.

    Returns
    -------
    Dataset

    Raises
    ------
    ValueError
        If no data set has this name.
    TypeError
        If the data set does not take an option.
    DataError
        If the data cannot be had; see the loaders.
    """
    if name == "mnist":
        return load_mnist(**options)
    if name == "fashion-mnist":
        return load_fashion_mnist(**options)
    if name != "digits":
        raise ValueError(f"name must be one of {', '.join(map(repr, NAMES))}; got {name!r}")
    if options:
        raise TypeError(f"the data set 'digits' takes no options, got {', '.join(sorted(options))}")
    return load_digits()
