"""Where every argument of ``tf.layers.batch_normalization`` went in Keras 3.

The table is checked against the signatures themselves: :func:`argument_table` fails if either library adds or drops an
argument that it does not know.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

from bncourse.keras_models.runtime import keras
from bncourse.tf_layers.runtime import tf1

#: Where an argument is: of the layer under the same name, of the call, or nowhere; or new in Keras 3.
Place = Literal["layer", "call", "gone", "new"]

_INITIALIZER: tuple[Place, str] = ("layer", "a name or an object")
_REGULARIZER: tuple[Place, str] = (
    "layer",
    "its loss joins the model's by itself; in tf.layers it waits in REGULARIZATION_LOSSES",
)
_CONSTRAINT: tuple[Place, str] = ("layer", "applied by the optimizer, as before")

_FATES: dict[str, tuple[Place, str]] = {
    "inputs": ("call", "make the layer once, then call it"),
    "axis": ("layer", "one axis only, no list"),
    "momentum": ("layer", "the same sense"),
    "epsilon": ("layer", "the same place"),
    "center": ("layer", ""),
    "scale": ("layer", ""),
    "beta_initializer": _INITIALIZER,
    "gamma_initializer": _INITIALIZER,
    "moving_mean_initializer": _INITIALIZER,
    "moving_variance_initializer": _INITIALIZER,
    "beta_regularizer": _REGULARIZER,
    "gamma_regularizer": _REGULARIZER,
    "beta_constraint": _CONSTRAINT,
    "gamma_constraint": _CONSTRAINT,
    "training": ("call", "fit, evaluate and predict set it; without it a call means inference, as before"),
    "trainable": ("layer", "False now also means inference mode"),
    "name": ("layer", ""),
    "reuse": ("gone", "call the same layer twice"),
    "renorm": ("layer", "back since Keras 3.14"),
    "renorm_clipping": ("layer", ""),
    "renorm_momentum": ("layer", ""),
    "fused": ("gone", "no choice of kernel; the population variance at every rank"),
    "virtual_batch_size": ("gone", "bncourse.nn.GhostBatchNorm shows what it did"),
    "adjustment": ("gone", "write a layer of your own"),
    "synchronized": ("new", "statistics over all replicas"),
    "activity_regularizer": ("new", "of every layer"),
    "dtype": ("new", "of every layer; tf.layers took that of its inputs"),
    "autocast": ("new", "of every layer"),
    "mask": ("new", "of the call: positions that the moments leave out"),
}


@dataclass(frozen=True)
class Argument:
    """One line of the table.

    Attributes
    ----------
    name
        Of the argument.
    place
        ``"layer"``: an argument of the layer; ``"call"``: of its call; ``"gone"``: of neither; ``"new"``: there was
        none in ``tf.layers``.
    then, now
        Its default in ``tf.layers`` and in Keras 3; ``None`` where it has none or does not exist.
    remark
        What else is to be known.
    """

    name: str
    place: Place
    then: str | None
    now: str | None
    remark: str


def argument_table() -> list[Argument]:
    """Compare the signatures of the installed libraries and return a line for each argument.

    Raises
    ------
    ValueError
        If a library has added, dropped or moved an argument, so that the table is no longer right.
    """
    old = _parameters(tf1.layers.batch_normalization)
    layer = keras.layers.BatchNormalization
    of_layer = {**_parameters(keras.layers.Layer.__init__), **_parameters(layer.__init__)}
    of_call = _parameters(layer.call)
    unknown = sorted((old.keys() | of_layer.keys() | of_call.keys()) - _FATES.keys())
    if unknown:
        raise ValueError(f"the table of arguments does not know {', '.join(unknown)}.")
    lines = []
    for name, (place, remark) in _FATES.items():
        found = _place(name in old, name in of_layer, name in of_call)
        if found != place:
            raise ValueError(f"the table of arguments says {name!r} is {place!r}; the libraries say {found!r}.")
        now = of_call.get(name) or of_layer.get(name)
        lines.append(Argument(name, place, _default(old.get(name)), _default(now), remark))
    return lines


def _place(old: bool, layer: bool, call: bool) -> Place | None:
    if not old:
        return "new" if layer or call else None
    if call:
        return "call"
    return "layer" if layer else "gone"


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }


def _default(parameter: inspect.Parameter | None) -> str | None:
    """Return the default as text; an initializer by its name, so that ``Zeros()`` and ``"zeros"`` are alike."""
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return None
    value = parameter.default
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    return (value if isinstance(value, str) else type(value).__name__).lower()
