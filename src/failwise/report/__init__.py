"""The report: one self-contained HTML page on a run, for people who will doubt it."""

from failwise.report.section import Section
from failwise.report.write import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "Section", "write_report"]
