"""Audit of any training loop: `from worker.trainer.witness import Witness`."""

from worker.trainer.witness.report import Violation, WitnessReport
from worker.trainer.witness.witness import Witness

Report = WitnessReport  # its name in earlier releases

__all__ = ["Report", "Violation", "Witness", "WitnessReport"]
