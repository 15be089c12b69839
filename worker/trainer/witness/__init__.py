"""Audit of any training loop: `from worker.trainer.witness import Witness`."""

from worker.trainer.witness.report import Report, Violation
from worker.trainer.witness.witness import Witness

__all__ = ["Report", "Violation", "Witness"]
