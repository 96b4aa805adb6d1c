"""The doctor: looks at this machine, the cluster and a running daemon, and says what is not as it should be.

    findings   what is said
    machine    files, certificate, configuration
    unit       the service as systemd knows it
    service    what is wrong with that, and with its files
    running    a daemon that answers
    cluster    rights, namespace, policies, nodes, ports, clock, and how many stacks fit
    probe      two stacks that try to reach each other and what they must not

Changes nothing, but for the probe, which removes what it made.
"""

from stackd.doctor.findings import Finding, Level

__all__ = ["Finding", "Level"]
