"""How fast the NumPy layer is beside what a user would take instead: ratios from one run, and the memory it needs."""

from bncourse.benchmark.contenders import CONTENDERS, Case
from bncourse.benchmark.measure import CASES, Row, measure, peak_memory
from bncourse.benchmark.record import read_record, write_record

__all__ = ["CASES", "CONTENDERS", "Case", "Row", "measure", "peak_memory", "read_record", "write_record"]
