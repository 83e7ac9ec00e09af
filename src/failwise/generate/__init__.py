"""Failures and the ways out of them: made on purpose from an expert's plans, or found in own episodes."""

from failwise.generate.attempts import Attempt, coverage, read_attempts
from failwise.generate.cells import Cell, Request, cells_of, parts_of, possible_modes, read_requests
from failwise.generate.corrections import Correction
from failwise.generate.failures import generate
from failwise.generate.mending import GenerateOptions
from failwise.generate.modes import MODES, Perturbation
from failwise.generate.own import mend_own
from failwise.generate.recoveries import RecoveryItem, recover, run_recovery

__all__ = [
    "MODES", "Attempt", "Cell", "Correction", "GenerateOptions", "Perturbation", "RecoveryItem", "Request", "cells_of",
    "coverage", "generate", "mend_own", "parts_of", "possible_modes", "read_attempts", "read_requests", "recover",
    "run_recovery",
]  # fmt: skip
