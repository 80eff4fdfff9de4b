"""Starts the programs of a test, waits until each is ready, and stops them by pid, last first."""
import os, random, signal, socket, subprocess, time


class Processes:
    def __init__(self):
        self.running = []

    def start(self, name, command, log, env=None, stop=signal.SIGTERM):
        """Starts `command` with its output in the file `log`; it is ended by the signal `stop`."""
        with open(log, "wb") as output:
            process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=subprocess.STDOUT, env={**os.environ, **(env or {})},
                                       start_new_session=True)  # Ctrl-C reaches this script alone, which then stops all
        self.running.append((name, process, stop))
        return process

    def stop(self):
        for name, process, stop in reversed(self.running):
            if process.poll() is None:
                process.send_signal(stop)
        deadline = time.monotonic() + 5
        for name, process, _ in reversed(self.running):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"{name} had to be killed")
                process.kill()
                process.wait()
        self.running.clear()


GIVEN = set()


def free_port():
    """A port of 127.0.0.1 that nobody was given before, below those that the system gives to clients: no client takes it
    meanwhile."""
    while True:
        port = random.randrange(20000, 32000)
        if port in GIVEN:
            continue
        GIVEN.add(port)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def wait_for_port(port, process, log, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"nothing listens on port {port}:\n{open(log, errors='replace').read()[-3000:]}")
            time.sleep(0.05)
