"""Repair of trained networks: moving statistics estimated anew."""

from bncourse.repair.graph import recalibrate_graph
from bncourse.repair.recalibrate import recalibrate
from bncourse.repair.report import LayerChange, Report

__all__ = ["LayerChange", "Report", "recalibrate", "recalibrate_graph"]
