"""What a hand-written training loop needs around the network: when to stop, what to keep, how to evaluate.

Nothing in this room imports TensorFlow.
"""

from bncourse.training.checkpoint import Checkpoint, CheckpointError, GraphVariables
from bncourse.training.early_stopping import EarlyStopping
from bncourse.training.evaluation import evaluate_in_chunks, predictor, score_in_chunks
from bncourse.training.guard import Guard, Variables
from bncourse.training.network import NetworkVariables
from bncourse.training.prechelt import (
    GeneralizationLoss,
    ProgressQuotient,
    SuccessiveRises,
    generalization_loss,
    successive_rises,
    training_progress,
)
from bncourse.training.rule import Decision, StoppingRule

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Decision",
    "EarlyStopping",
    "GeneralizationLoss",
    "GraphVariables",
    "Guard",
    "NetworkVariables",
    "ProgressQuotient",
    "StoppingRule",
    "SuccessiveRises",
    "Variables",
    "evaluate_in_chunks",
    "generalization_loss",
    "predictor",
    "score_in_chunks",
    "successive_rises",
    "training_progress",
]
