"""How much memory the scoring of many images takes: each way in a fresh process, by what the system says.

Article E scored 10,000 images at once, ran out of memory, and named three ways out: a smaller model, 16-bit numbers,
and chunks. `SETUPS` are these three, and none, for its base and its improved network.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

from bncourse.nn.checks import positive_int
from bncourse.results import files

#: Changes when the form of the file does.
FORM = 1
_AGAIN = "bncourse memory --record FILE"

Network = Literal["base", "improved"]
Images = Literal["digits", "mnist"]

#: Tells TensorFlow's own kernel to add up float16 products in float16. By default it computes in float32 and rounds.
ACCUMULATE = {"TF_CONV2D_USE_FP16_ACCUMULATE": "1"}

#: Makes TensorFlow do without oneDNN, Intel's library of kernels.
WITHOUT_ONEDNN = {"TF_ENABLE_ONEDNN_OPTS": "0"}

#: Flags of x86 processors that have instructions for 16-bit floats.
_HALF = ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")

#: Images of the pass that comes before the measurement: what is made once is not counted.
WARM_UP = 10


@dataclass(frozen=True)
class Setup:
    """A network, and a way to score images with it.

    Attributes
    ----------
    network
        Which of article E's networks.
    way
        Name of the way.
    chunk
        Images at once; ``None``: all.
    options
        Of `build_base_network`, or of `build_improved_network`.
    environment
        Environment variables of the process.
    """

    network: Network
    way: str
    chunk: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


SETUPS: tuple[Setup, ...] = (
    Setup("base", "all at once"),
    Setup("base", "all at once, without oneDNN", environment=WITHOUT_ONEDNN),
    Setup("base", "chunks of 1,000", 1_000),
    Setup("base", "chunks of 100", 100),
    Setup("base", "float16", options={"precision": "float16"}),
    Setup("base", "float16, added up in float16", options={"precision": "float16"}, environment=ACCUMULATE),
    Setup("base", "bfloat16", options={"precision": "bfloat16"}),
    Setup("base", "bfloat16, without oneDNN", options={"precision": "bfloat16"}, environment=WITHOUT_ONEDNN),
    Setup("base", "half the maps", options={"maps": (8, 16)}),
    Setup("base", "stride 2 twice", options={"strides": (2, 2)}),
    Setup("improved", "all at once"),
    Setup("improved", "chunks of 1,000", 1_000),
    Setup("improved", "chunks of 100", 100),
)


@dataclass(frozen=True)
class Measurement:
    """What one way took.

    Attributes
    ----------
    network, way
        Which.
    images, chunk
        Images that were scored, and how many of them at once.
    parameters
        Numbers that training changes.
    peak_bytes
        By how much the process's resident memory rose while the images were scored, at its highest. Images, graph and
        weights were there before.
    processor_seconds
        Time that the processor worked on one pass over the images, on one thread; median of three passes.
    """

    network: str
    way: str
    images: int
    chunk: int
    parameters: int
    peak_bytes: int
    processor_seconds: float


def measure(setup: Setup, *, images: int = 10_000, data: Images = "digits") -> Measurement:
    """Score images in a new process, and return how much memory and time that took.

    The process builds the network with its start weights, loads the images, and scores a few of them; what it holds
    then is the baseline. Then it scores all images. Linux only: the peak is read from ``/proc/self/status``.

    Parameters
    ----------
    setup : Setup
        The network and the way.
    images : int
        How many; those of `data` are repeated.
    data : {"digits", "mnist"}
        Where they come from; ``"mnist"`` takes the test images.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible.
    RuntimeError
        If the process fails: the message ends as its standard error does. So it is where there is too little memory,
        or no ``/proc``.
    """
    positive_int(images, "images")
    for value, name, known in ((data, "data", Images), (setup.network, "network", Network)):
        if value not in get_args(known):
            raise ValueError(f"{name} = {value!r}; expected one of {', '.join(map(repr, get_args(known)))}.")
    task = json.dumps({**asdict(setup), "images": images, "data": data})
    done = subprocess.run(
        [sys.executable, "-m", "bncourse.experiments.memory", task],
        capture_output=True,
        text=True,
        env={**os.environ, **setup.environment},
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip()[-500:] or "nothing on standard error"
        raise RuntimeError(f"{setup.network}, {setup.way}: the process ended with {done.returncode}; {last}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def peak_of(call: Callable[[], object]) -> int:
    """Return by how many bytes the resident memory of this process rises at its highest while `call` runs.

    What the call returns counts, too.

    Raises
    ------
    OSError
        If the system has no ``/proc/self/clear_refs``: it is not Linux.
    """
    gc.collect()
    _give_back()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew from here
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result
    return max(peak - before, 0)


def _give_back() -> None:
    """Let the allocator give its free memory back to the system; what it reuses would not be counted."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


def score_here(task: Mapping[str, Any]) -> Measurement:
    """Do in this process what `measure` does in a new one; `task` holds a `Setup`, the images and their source."""
    import numpy as np

    from bncourse.data import load_digits, load_mnist
    from bncourse.tf_layers import tf1
    from bncourse.training.evaluation import predictor

    some = (load_mnist().test if task["data"] == "mnist" else load_digits().train).images
    images = some[np.arange(task["images"]) % len(some)]
    chunk = task["chunk"] or len(images)
    network = _build(task["network"], task["options"])
    # One thread: the memory of several would depend on their number.
    configuration = tf1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    with tf1.Session(graph=network.graph, config=configuration) as session:
        session.run(network.initializer)
        predict = predictor(network, session=session)
        predict(images[:WARM_UP])

        def score() -> None:
            for start in range(0, len(images), chunk):
                predict(images[start : start + chunk])

        peak = peak_of(score)
        seconds = []
        for _ in range(3):
            begin = time.process_time()
            score()
            seconds.append(time.process_time() - begin)
    trained = network.graph.get_collection("trainable_variables")
    return Measurement(
        network=task["network"],
        way=task["way"],
        images=len(images),
        chunk=min(chunk, len(images)),
        parameters=sum(variable.shape.num_elements() for variable in trained),
        peak_bytes=peak,
        processor_seconds=round(median(seconds), 3),
    )


def write_record(path: str | Path, rows: Sequence[Measurement], data: Images) -> None:
    """Write measurements, and what they were made on, to the JSON file `path`, whole or not at all."""
    record = {
        "form": FORM,
        "machine": {"processor": files.processor(), "system": platform.system(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("bncourse", "numpy", "tensorflow")},
        "half_precision": [name for name in _HALF if name in files.cpuinfo("flags").split()],
        "data": data,
        "rows": [asdict(row) for row in rows],
    }
    files.write(path, record)


def read_record(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_record` wrote; the rows come back as :class:`Measurement`.

    Raises
    ------
    ValueError
        If the file is no record of memory, or has another form.
    OSError
        If it cannot be read.
    """
    with files.reading(path, "record of memory") as record:
        files.check_form(path, record["form"], FORM, _AGAIN)
        record["rows"] = [_row(**row) for row in record["rows"]]
        missing = {"machine", "versions", "half_precision", "data"} - set(record)
        if missing or not record["rows"]:
            raise KeyError(*sorted(missing or {"rows"}))
        return dict(record)


def _row(**values: Any) -> Measurement:
    """Return a row whose values are of the right kind."""
    row = Measurement(**values)
    for each in fields(row):
        value = getattr(row, each.name)
        if type(value).__name__ != each.type or (each.type != "str" and value < 0):
            raise TypeError(f"{each.name} = {value!r}")
    return row


def _build(name: str, options: Mapping[str, Any]) -> Any:
    from bncourse.tf_layers.base_network import build_base_network
    from bncourse.tf_layers.improved_network import build_improved_network

    return (build_base_network if name == "base" else build_improved_network)(**options)


def _status(name: str) -> int:
    """Return a number of bytes that the system keeps about this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    print(json.dumps(asdict(score_here(json.loads(sys.argv[1])))))
