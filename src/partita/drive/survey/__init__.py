"""What this host can do with GPUs, who else has a hand in them, and what is missing; it changes nothing."""

from partita.drive.survey.finding import Finding, Level
from partita.drive.survey.host import Manager
from partita.drive.survey.real import RealGpu
from partita.drive.survey.report import Report, survey

__all__ = ["Finding", "Level", "Manager", "RealGpu", "Report", "survey"]
