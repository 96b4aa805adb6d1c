"""Which version this is, stated once. A build off a tag writes its own version into its copy (``deb/version.sh``)."""

__version__ = "1.0.0"  # as Python's packaging has it (PEP 440): 1.0.0.dev20261130184205+g1a2b3c4 for a build off a tag

VERSION = __version__.replace(".dev", "~dev")
"""As it is shown, and as dpkg sorts it: ``1.0.0~dev20261130184205+g1a2b3c4`` comes before ``1.0.0``."""
