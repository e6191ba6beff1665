"""What BN means by the same words in other libraries: a table whose every cell was obtained by running them.

``python -m bncourse.conventions`` shows the table, ``--check`` asks the installed libraries again, and ``--record``
stores what they answer.
"""

from bncourse.conventions.probes import QUESTIONS, Question, Statistics, Subject, probe
from bncourse.conventions.record import differences, markdown, probe_installed, read_record, write_record
from bncourse.conventions.subjects import SUBJECTS

__all__ = [
    "QUESTIONS",
    "SUBJECTS",
    "Question",
    "Statistics",
    "Subject",
    "differences",
    "markdown",
    "probe",
    "probe_installed",
    "read_record",
    "write_record",
]
