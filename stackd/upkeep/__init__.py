"""What a running daemon does for those who look after it: says how it is, proves that it works, takes changes over.

report        the status line, and when it is ready
watchdog      the proof that loop, file and mirror are at work
reload        a changed configuration, whole or not at all
certificate   the TLS certificate, read again when its files change
validity      from when to when a certificate is valid
keyfile       the file of API keys, read again when it changes
memory        what the garbage collector need not search again
lag           how late the event loop is
"""
