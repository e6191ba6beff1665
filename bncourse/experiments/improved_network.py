"""Article E's improved network, trained with early stopping: the run behind the chapter on dropout and stopping."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from bncourse.data import Dataset, Split, batches
from bncourse.nn.checks import positive_int
from bncourse.tf_layers import tf1
from bncourse.tf_layers.improved_network import ImprovedNetwork, build_improved_network
from bncourse.training import Checkpoint, EarlyStopping

Monitor = Literal["after", "before"]


@dataclass(frozen=True)
class Validation:
    """One look at the validation images.

    Attributes
    ----------
    step : int
        Training steps done so far.
    training_loss : float
        Loss of the batch of this step, in training mode and before the update, in nats.
    accuracy_after : float
        Validation accuracy from the logits after the last BN, from 0 to 1.
    accuracy_before : float
        The same from the logits before the last BN, as in the article.
    """

    step: int
    training_loss: float
    accuracy_after: float
    accuracy_before: float


@dataclass(frozen=True)
class ImprovedNetworkRun:
    """What one training run gave. Accuracies lie between 0 and 1. Runs are equal if all but their seconds is.

    Attributes
    ----------
    log : tuple of Validation
        Every validation, in the order of its steps.
    best_validation : float
        Best validation accuracy, of the kind that was monitored.
    best_step : int
        Step of it: the weights of this step were restored.
    stopped_step : int
        Step at which the training ended.
    patience_ran_out : bool
        Whether it ended for that reason; otherwise `max_epochs` were done.
    test_best : float
        Test accuracy of the restored weights, after the last BN.
    test_best_before : float
        Test accuracy of the restored weights, before the last BN: the article's figure.
    test_last : float
        Test accuracy of the weights of the last step, after the last BN.
    seconds : float
        Wall-clock time of training and validation. Not compared.
    """

    log: tuple[Validation, ...]
    best_validation: float
    best_step: int
    stopped_step: int
    patience_ran_out: bool
    test_best: float
    test_best_before: float
    test_last: float
    seconds: float = field(compare=False)

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Steps of the validations, shape (validations,)."""
        return np.array([entry.step for entry in self.log])

    def accuracies(self, which: Monitor = "after") -> npt.NDArray[np.float64]:
        """Return the validation accuracies after, or before, the last BN, shape (validations,).

        Raises
        ------
        ValueError
            If `which` is neither "after" nor "before".
        """
        name = f"accuracy_{_known(which, 'which')}"
        return np.array([getattr(entry, name) for entry in self.log])


def train_improved_network(
    data: Dataset,
    *,
    batch_size: int = 100,
    max_epochs: int = 20,
    validate_every: int = 10,
    patience: int = 2000,
    monitor: Monitor = "after",
    learning_rate: float = 0.01,
    seed: int = 0,
    chunk: int = 1000,
    progress: bool = False,
) -> ImprovedNetworkRun:
    """Train the improved network of article E, stop early, go back to the best step, and test once.

    The defaults are the article's, but for `monitor`: the article watches the accuracy from the logits before the
    last BN. Steps are counted from 1 here, and validations follow the steps 10, 20, ... (and the very last one); the
    article counts from 0 and validates after its steps 0, 10, 20, ...

    Parameters
    ----------
    data : Dataset
        Training, validation and test images.
    batch_size : int
        Images in a step. Images that do not fill a batch sit out that epoch.
    max_epochs : int
        Passes over the training images, at most.
    validate_every : int
        Steps between two validations.
    patience : int
        Stop at the first validation without an improvement that lies so many steps after the best one.
    monitor : {"after", "before"}
        Which validation accuracy decides: from the logits after the last BN, or from those before.
    learning_rate : float
        Adam's learning rate, above 0.
    seed : int
        Seed of the start weights, of dropout and of the batches.
    chunk : int
        Images that are evaluated at once.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    ImprovedNetworkRun
        Repeatable up to rounding: TensorFlow's sums depend on the processor and on the order of its threads.

    Raises
    ------
    TypeError, ValueError
        If an argument is impossible.
    """
    _known(monitor, "monitor")
    validate_every, chunk = positive_int(validate_every, "validate_every"), positive_int(chunk, "chunk")
    stopping = EarlyStopping(patience=patience, unit="steps", mode="max")
    draws = batches(data.train, batch_size, seed=seed, epochs=max_epochs)
    steps = max_epochs * (len(data.train) // batch_size)
    network = build_improved_network(learning_rate=learning_rate, seed=seed)

    log: list[Validation] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        tf1.Session(graph=network.graph) as session,
        tqdm(total=steps, unit="step", disable=not progress) as bar,
    ):
        checkpoint = Checkpoint(Path(folder) / "best.npz")
        session.run(network.initializer)
        start = time.perf_counter()
        for step, (images, labels) in enumerate(draws, start=1):
            feed = {network.inputs: images, network.labels: labels, network.training: True}
            _, loss = session.run([network.train_op, network.loss], feed)
            bar.update()
            if step % validate_every and step < steps:
                continue
            before, after = _accuracies(session, network, data.validation, chunk)
            log.append(Validation(step, float(loss), after, before))
            decision = stopping.update(after if monitor == "after" else before, step)
            if decision.improved:
                checkpoint.save(session)
            if decision.should_stop:
                break
        seconds = time.perf_counter() - start
        _, test_last = _accuracies(session, network, data.test, chunk)
        checkpoint.restore(session)
        test_before, test_after = _accuracies(session, network, data.test, chunk)

    # An accuracy is finite, so the first validation has set both.
    assert stopping.best is not None
    assert stopping.best_step is not None
    return ImprovedNetworkRun(
        log=tuple(log),
        best_validation=stopping.best,
        best_step=stopping.best_step,
        stopped_step=log[-1].step,
        patience_ran_out=stopping.should_stop,
        test_best=test_after,
        test_best_before=test_before,
        test_last=test_last,
        seconds=seconds,
    )


def _known(which: Monitor, name: str) -> Monitor:
    """Return `which`, if there are logits of this kind."""
    if which not in get_args(Monitor):
        raise ValueError(f"{name} = {which!r}; expected 'after' or 'before' (the last BN).")
    return which


def _accuracies(session: Any, network: ImprovedNetwork, split: Split, chunk: int) -> tuple[float, float]:
    """Return the accuracies before and after the last BN, in inference mode, from one pass over the images."""
    fetches = [network.accuracy_before, network.accuracy_after]
    correct = np.zeros(2)
    for start in range(0, len(split), chunk):
        images, labels = split.images[start : start + chunk], split.labels[start : start + chunk]
        shares = session.run(fetches, {network.inputs: images, network.labels: labels})
        correct += np.rint(np.multiply(shares, len(labels)))
    before, after = correct / len(split)
    return float(before), float(after)
