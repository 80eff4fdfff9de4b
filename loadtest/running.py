"""What the measurements share: contoso and the edge as programs, and what the system says of them."""
import os, re, signal, subprocess, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
BIN = os.environ.get("FIRSTCAS_BIN", "target/release")
EDGE = 18080
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def memory_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{pid}/status").read()).group(1))


def start(ready, *command, env=None):
    """A program that has said that it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env={**os.environ, **(env or {})})
    for line in process.stdout:
        if ready in line:
            break
    else:
        sys.exit(f"{command[0]} ended before it was ready")
    # Somebody must read on, or the program stops when the pipe is full.
    subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL)
    return process


def start_contoso(*options, ldif="conf/contoso.ldif"):
    subprocess.run([f"{BIN}/examples/contoso", "pki", "state/demo"], check=True)
    return start("contoso is ready", f"{BIN}/examples/contoso", "run", "--ldif", ldif,
                 "--pki", "state/demo", "-c", "conf/firstcas.toml", *options)


def start_edge(folder, port=EDGE, changes=(), env=None):
    """The demo's edge on this port; its configuration, pid file and upgrade socket are in the folder. `changes` are pairs
    of text in the configuration and what takes its place."""
    config = open("conf/firstcas.toml").read()
    for file in ["firstcas.pid", "upgrade.sock"]:
        config = config.replace(f"state/demo/{file}", os.path.join(folder, file))
    config = config.replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("127.0.0.1:8443", f"127.0.0.1:{port + 363}")
    config = config.replace("127.0.0.1:8090", f"127.0.0.1:{port + 10}")
    for mail in [8143, 8993, 8110, 8995]:
        config = config.replace(f"127.0.0.1:{mail}", f"127.0.0.1:{port + mail - 8080}")
    # A few people ask for everybody here, more at once than a person does whom nobody knows yet.
    config = config.replace("\n#failed_logons_per_user = 9\n", "\nfailed_logons_per_user = 1000000\n")
    for old, new in changes:
        if old not in config:
            sys.exit(f"conf/firstcas.toml has no {old!r} any more")
        config = config.replace(old, new)
    file = os.path.join(folder, "firstcas.toml")
    open(file, "w").write(config)
    return start("firstcas is ready", f"{BIN}/firstcas", "run", "-c", file, env=env)


def stop(processes):
    for process in reversed(processes):
        process.send_signal(signal.SIGINT)
        process.wait()
