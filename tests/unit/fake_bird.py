"""A BIRD that only listens on its control socket: for tests of those who talk to it."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType

GREETING = b"0001 BIRD 2.0.12 ready.\n"
ANSWERS = {
    "configure check": b"0020 Configuration OK\n",
    "configure": b"0003 Reconfigured\n",
    "show protocols": b"2002-Name Proto Table State Since Info\n0000 \n",
    "show bfd": b"1020-There is no BFD protocol running\n0000 \n",
}


class FakeBird:
    """Listens in `folder`. `running` is the configuration that it was told last; while it is `mute` it obeys and does not say so."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.running: str | None = None
        self.mute = False
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(folder / "bird.ctl"))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeBird:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # it is closed
                return
            with connection, connection.makefile() as commands:
                connection.sendall(GREETING)
                command = commands.readline().strip()
                answer = next((text for start, text in ANSWERS.items() if command.startswith(start)), b"")
                if command.startswith('configure "'):
                    self.running = Path(command.split('"')[1]).read_text()
                    answer = b"" if self.mute else answer
                if answer:
                    connection.sendall(answer)
