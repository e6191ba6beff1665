"""What a hand-written training loop needs around the network: when to stop, what to keep, how to evaluate.

Nothing in this room imports TensorFlow.
"""

from bncourse.training.checkpoint import Checkpoint, CheckpointError
from bncourse.training.early_stopping import Decision, EarlyStopping
from bncourse.training.evaluation import evaluate_in_chunks

__all__ = ["Checkpoint", "CheckpointError", "Decision", "EarlyStopping", "evaluate_in_chunks"]
