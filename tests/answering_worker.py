"""A worker that only says who it is; light, since each process imports it anew."""

import os
import signal
import socket
import sys

from service.settings import Settings

REFUSAL_EXIT = 3


def answering(_: Settings, listener: socket.socket, number: int) -> None:
    """Tells its number and process to whoever connects, until SIGTERM; "die" kills it, "refuse" ends it for good."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.alarm(120)  # nobody is left behind, whatever becomes of the test
    listener.listen()
    while True:
        connection, _address = listener.accept()
        with connection:
            said = connection.recv(10)
            connection.sendall(f"{number} {os.getpid()}".encode())
        if said == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if said == b"refuse":
            sys.exit(REFUSAL_EXIT)
