"""How fast the NumPy layer is beside what a user would take instead: ratios from one run, and the memory it needs."""

from bncourse.benchmark.contenders import CONTENDERS, Case
from bncourse.benchmark.measure import CASES, Row, measure, peak_memory
from bncourse.benchmark.record import read_record, write_record
from bncourse.benchmark.steps import EXAMPLE, STEPS, SUMS, measure_steps

__all__ = [
    "CASES",
    "CONTENDERS",
    "EXAMPLE",
    "STEPS",
    "SUMS",
    "Case",
    "Row",
    "measure",
    "measure_steps",
    "peak_memory",
    "read_record",
    "write_record",
]
