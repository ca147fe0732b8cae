"""Firefox without a window, by its own protocol, Marionette: it needs no driver beside Debian's package."""

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

PREFERENCES = ("browser.shell.checkDefaultBrowser", "datareporting.policy.dataSubmissionEnabled")


class Firefox:
    """A browser with one page.

    Args:
        program: The path of Firefox.
        profile: An empty folder for its profile.
        width: Of the page, in pixels.
    """

    def __init__(self, program: str, profile: Path, width: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        off = "".join(f'user_pref("{name}", false);\n' for name in PREFERENCES)
        (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n{off}')
        command = [program, "--headless", "--marionette", "--no-remote", "--profile", str(profile)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.socket = _connected(port)
        self.stream = self.socket.makefile("rwb")
        self._read()  # it says who it is
        self._call("WebDriver:NewSession")
        self._call("WebDriver:SetWindowRect", width=width, height=900)

    def open(self, path: Path) -> None:
        """Opens a file."""
        self._call("WebDriver:Navigate", url=path.as_uri())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of the page's script, awaited, as JSON."""
        told = "document.body.dataset.told"
        code = f"{told} = ''; (async () => ({expression}))()"
        code += f".then((x) => {{ {told} = JSON.stringify([x]) }}, (e) => {{ {told} = JSON.stringify([String(e)]) }})"
        self._call("WebDriver:ExecuteScript", script="window.eval(arguments[0])", args=[code])
        while not (text := self._call("WebDriver:ExecuteScript", script=f"return {told}", args=[])["value"]):
            time.sleep(0.05)
        return json.loads(text)[0]

    def close(self) -> None:
        """Ends the browser."""
        self.stream.close()
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

    def _call(self, name: str, **parameters: Any) -> Any:
        message = json.dumps([0, 1, name, parameters]).encode()
        self.stream.write(f"{len(message)}:".encode() + message)
        self.stream.flush()
        _, _, error, value = self._read()
        assert error is None, error
        return value

    def _read(self) -> Any:
        length = b""
        while (byte := self.stream.read(1)) != b":":
            length += byte
        return json.loads(self.stream.read(int(length)))


def _connected(port: int) -> socket.socket:
    until = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
