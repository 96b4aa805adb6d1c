"""What a running daemon does for those who operate it.

health    the status line, the watchdog, and the event loop's lag
reload    applies all changes of the configuration or key file, or none
tls       loads the TLS certificate again when its files change
backup    runs the operator's command after a backup, and knows when it last succeeded
build     whether another build was installed since the start
systemd   the service manager: its protocol, the sockets that it hands over, its credentials
"""

REFUSED = "the last reload was refused: "
# Beginnings of two parts of the status line; the doctor looks for them.
WAITS = "waits for a restart: "
OLDER_BUILD = "runs an older build"
RESTART = "systemctl restart stackd"
