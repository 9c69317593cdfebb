"""The client of the fork server: what it hears does not wait for what it says."""

from __future__ import annotations

import socket
import threading

import pytest

from sim.cluster.processes import ForkedProcess, ForkServer, StartError

DEADLINE_S = 20.0
MUCH = "x" * (16 << 20)
"""More than the buffers of a socket hold."""


def test_the_end_of_a_program_is_heard_while_a_request_is_not_taken() -> None:
    """The server takes no request before its own words are taken: each would wait for the other."""
    server = ForkServer()
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE_S)
    process = ForkedProcess(server, 42)
    server._socket, server._running[42] = ours, process
    reading = threading.Thread(target=server._read, args=(ours,))
    refused: list[StartError] = []

    def say() -> None:
        with pytest.raises(StartError) as caught:
            server.send({"arguments": MUCH})
        refused.append(caught.value)

    saying = threading.Thread(target=say)
    reading.start()
    saying.start()
    try:
        assert theirs.recv(1) == b"{", "it has begun to say it"
        theirs.sendall(b'{"ended": 42, "code": 7}\n')
        assert process.wait(DEADLINE_S)
        assert process.exit_code() == 7
    finally:
        theirs.close()
        saying.join(DEADLINE_S)
        reading.join(DEADLINE_S)
        ours.close()
    assert "the fork server has ended" in str(refused[0])
