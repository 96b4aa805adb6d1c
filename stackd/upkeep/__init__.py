"""What a running daemon does for those who look after it.

health    the status line, the watchdog, and how late the event loop is
reload    a changed configuration or key file, whole or not at all
tls       the TLS certificate, read again when its files change
systemd   the service manager: its protocol, the sockets that it hands over, its credentials
"""
