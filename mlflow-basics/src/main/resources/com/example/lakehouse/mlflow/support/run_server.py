"""Runs `mlflow` with this script's arguments, until standard input ends.

The JVM that starts it holds the other end of standard input. The system closes that when the JVM ends, however it ends,
so no server outlives its JVM.
"""

import os
import signal
import subprocess
import sys
import threading
import time


def end_with_standard_input():
    os.read(0, 1)
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())])
    # To MLflow, to its web server, and to this process.
    os.killpg(0, signal.SIGTERM)
    time.sleep(5)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    if os.name != "nt":
        # A terminal sends Ctrl-C to all processes of its session: not to this one, since the JVM still needs it.
        os.setsid()
    threading.Thread(target=end_with_standard_input, daemon=True).start()

    from mlflow.cli import cli

    cli()
