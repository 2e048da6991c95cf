"""What is installed on this machine, what of it really works, and one remedy per problem."""

from ncdeploy.doctor.diagnosis import Diagnosis, Finding, Probe, diagnose

__all__ = ["Diagnosis", "Finding", "Probe", "diagnose"]
