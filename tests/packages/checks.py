"""The checks of what an administrator installs. Each is a sentence and a function that raises if it is not true."""
import contextlib, json, os, re, shutil, signal, socket, subprocess, sys, tempfile, traceback
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CONF = ROOT / "conf"
DEADLINE = 60
CHECKS = []


class NotHere(Exception):
    """The machine lacks what a check needs."""


def check(what):
    def register(function):
        CHECKS.append((what, function))
        return function
    return register


class Place:
    """A temporary folder, the program, and the package made of it."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.deb = None
        self.own_files = folder / "own"
        self.make_own_files()

    def make_own_files(self):
        """Of each kind that a configuration names, one, named like its suffix; without one, a key in base64, also a password."""
        self.own_files.mkdir()
        output("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=mail.contoso.com",
               "-keyout", self.own_files / "key", "-out", self.own_files / "pem")
        shutil.copy(self.own_files / "pem", self.own_files / "crt")
        (self.own_files / "secret").write_text(output("openssl", "rand", "-base64", "32"))

    def file(self, name, text):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def output(*command, status=0, deadline=DEADLINE, **more):
    """What a command writes, both streams; it must end with this status."""
    ran = subprocess.run([str(it) for it in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         stdin=subprocess.DEVNULL, timeout=deadline, **more)
    assert status is None or ran.returncode == status, f"{command[0]} ended with {ran.returncode}:\n{ran.stdout}"
    return ran.stdout


# ---- systemd

def unit(place):
    """The unit as it is installed, but for the place of the program."""
    text = (CONF / "systemd/firstcas.service").read_text()
    return place.file("unit/firstcas.service", text.replace("/usr/bin/firstcas", str(place.binary)))


@check("systemd finds nothing wrong with the unit")
def _(place):
    said = output("systemd-analyze", "verify", "--man=no", unit(place))
    assert said == "", said


@check("systemd calls the unit well protected")
def _(place):
    said = output("systemd-analyze", "security", "--offline=true", "--threshold=20", unit(place))
    assert "Overall exposure level" in said, said


@check("the unit lets as many files be open and as much time pass as the defaults of the configuration need")
def _(place):
    text = (CONF / "systemd/firstcas.service").read_text()
    sample = (CONF / "firstcas.toml").read_text()
    clients = int(re.search(r"#client_connections = (\d+)", sample)[1])
    drain = int(re.search(r'#drain_timeout = "(\d+)s"', sample)[1])
    assert int(re.search(r"LimitNOFILE=(\d+)", text)[1]) > 3 * clients
    assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > drain


@check("the program serves, tells the balancer so, and stops within the system calls that the unit allows")
def _(place):
    try:
        import seccomp
    except ImportError:
        raise NotHere("python3-seccomp")
    allowed = system_calls("@system-service") - system_calls("@privileged") - system_calls("@resources")
    assert {"accept4", "epoll_wait", "clone3"} <= allowed and "mount" not in allowed, allowed

    def confine():
        rules = seccomp.SyscallFilter(seccomp.ERRNO(1))  # EPERM, as the unit has it
        for call in allowed:
            with contextlib.suppress(RuntimeError, OSError):  # calls of other architectures
                rules.add_rule(seccomp.ALLOW, call)
        rules.load()

    config = demo(place)
    log = place.folder / "confined.log"
    with notified(place) as manager, open(log, "w") as errors:
        edge = subprocess.Popen([place.binary, "run", "-c", config], cwd=place.folder, stderr=errors, preexec_fn=confine,
                                env={"NOTIFY_SOCKET": manager.getsockname(), "PATH": "/usr/bin:/bin"})
        try:
            assert manager.recv(1024) == b"READY=1\n", log.read_text()
            assert "KRB5_CONFIG=/proc/self/fd/0:" in Path(f"/proc/{edge.pid}/environ").read_text()  # it has started anew
            address = re.search(r"listening on (http://[0-9.:]+)", log.read_text())[1]
            answer = output("curl", "-si", "-m", "20", "-u", "filipe:Pass-word1", f"{address}/owa/")
            assert answer.startswith("HTTP/1.1 403"), answer
            page = re.search(r"page is at (http://[0-9.:]+)", log.read_text())[1]
            [host] = re.findall(r"http-check send .* hdr Host (\S+)", (CONF / "haproxy/haproxy.cfg").read_text())
            answer = output("curl", "-si", "-m", "20", "-H", f"Host: {host}", f"{page}/readyz")
            assert answer.startswith("HTTP/1.1 200"), answer
            edge.send_signal(signal.SIGTERM)
            assert manager.recv(1024) == b"STOPPING=1\n", log.read_text()
            assert edge.wait(DEADLINE) == 0, log.read_text()
        finally:
            if edge.poll() is None:
                edge.kill()
                edge.wait()


def system_calls(group):
    calls = set()
    for line in output("systemd-analyze", "syscall-filter", group).splitlines():
        name = line.strip()
        if name.startswith("@") and name != group:
            calls |= system_calls(name)
        elif name and not name.startswith(("@", "#")):
            calls.add(name)
    return calls


def demo(place):
    """The demo's configuration on free ports, without https, with Kerberos for users."""
    text = (CONF / "firstcas.toml").read_text()
    before, rest = text.split("# https, TLS 1.2 and 1.3.")
    text = before.replace("127.0.0.1:8080", "127.0.0.1:0") + rest.split("#http2 = false")[1]
    text = text.replace("127.0.0.1:8090", "127.0.0.1:0").replace("\n#[sign_in]\n", "\n[sign_in]\n")
    for port in [8143, 8993, 8110, 8995]:
        text = text.replace(f"127.0.0.1:{port}", "127.0.0.1:0")
    shutil.copy(CONF / "contoso.ldif", place.folder)
    (place.folder / "state/demo").mkdir(parents=True)
    for kind in ["pem", "key"]:  # of the listeners for mail
        shutil.copy(place.own_files / kind, place.folder / f"state/demo/edge.{kind}")
    text = text.replace("conf/contoso.ldif", "contoso.ldif").replace('ca = "state/demo/ca.pem"', "insecure = true")
    return place.file("demo.toml", text)


@contextlib.contextmanager
def notified(place):
    path = place.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(DEADLINE)
        yield manager
    path.unlink()


@check("the journal keeps an event with fields to search by, and what came by /dev/log with its severity")
def _(place):
    if subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], stderr=subprocess.DEVNULL).returncode:
        raise NotHere("the right to make namespaces")
    state = place.folder / "state"
    place.file("state/topology.kept", "nothing of ours")  # which is FC129, and the end of a start without directory
    config = place.file("journal.toml", f"""
        process.state_dir = "{state}"
        routing.local_site = "Lisbon"
        log.events = ["syslog", "journald"]
        [[listener]]
        address = "127.0.0.1:0"
        [directory.ldap]
        urls = ["ldap://127.0.0.1:1"]
        bind_dn = "CN=firstcas"
        bind_password_file = "{place.own_files}/secret"
        """)
    said = output(ROOT / "tests/packages/beside_journal", place.binary, "run", "-c", config)
    entries = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert {it["_TRANSPORT"] for it in entries} == {"journal", "syslog"}, said
    for entry in entries:
        assert entry["MESSAGE"].startswith("FC129: ") and entry["PRIORITY"] == "4", entry
        assert entry["_TRANSPORT"] == "syslog" or entry["FIRSTCAS_EVENT"] == "FC129" and entry["FIRSTCAS_CURE"], entry


# ---- the Debian package

@check("the Debian package is made, of the unit, the manual, completions, a user and a configuration")
def _(place):
    profile = place.binary.parent.name
    if place.binary.parent.parent != ROOT / "target":
        raise NotHere("a firstcas under target/")
    output(CONF / "debian/make", profile, place.folder / "deb", deadline=900)  # cargo-deb is built first where it is missing
    [place.deb] = (place.folder / "deb").glob("firstcas_*.deb")
    files = {line.split(maxsplit=5)[5] for line in output("dpkg-deb", "-c", place.deb).splitlines()}
    for file in ["usr/bin/firstcas", "etc/firstcas/firstcas.toml", "usr/lib/systemd/system/firstcas.service",
                 "usr/lib/sysusers.d/firstcas.conf", "usr/share/man/man8/firstcas.8.gz",
                 "usr/share/man/man8/firstcas-check.8.gz", "usr/share/bash-completion/completions/firstcas",
                 "usr/share/zsh/vendor-completions/_firstcas", "usr/share/doc/firstcas/examples/firstcas.toml",
                 "usr/share/doc/firstcas/examples/firstcas.yaml", "usr/share/doc/firstcas/examples/firstcas.rules.yml"]:
        assert f"./{file}" in files, f"{file} is not among {sorted(files)}"
    needed = output("dpkg-deb", "-f", place.deb, "Depends")
    assert re.search(r"\blibgssapi-krb5-2\b", needed), needed
    assert output("dpkg-deb", "-I", place.deb, "conffiles") == "/etc/firstcas/firstcas.toml\n"
    after = output("dpkg-deb", "-I", place.deb, "postinst")
    assert "systemd-sysusers" in after and "deb-systemd-invoke" not in after, after


@check("Debian's own reader of packages finds nothing wrong with it")
def _(place):
    if not place.deb:
        raise NotHere("the package")
    of_archives = "initial-upload-closes-no-bugs"  # for uploads to Debian's own archive
    said = output("lintian", "--allow-root", f"--suppress-tags={of_archives}", place.deb, status=None)
    assert not re.search("^[EW]:", said, re.MULTILINE), said


@check("the user of the package is one that systemd makes")
def _(place):
    root = place.folder / "root"
    (root / "etc").mkdir(parents=True)
    output("systemd-sysusers", f"--root={root}", CONF / "systemd/firstcas.sysusers")
    assert re.search("^firstcas:.*:/var/lib/firstcas:/usr/sbin/nologin$", (root / "etc/passwd").read_text(), re.MULTILINE)


# ---- configurations

def good_with_own_files(place, name, text):
    """Whether a configuration is good once the administrator's files are there."""
    own = place.folder / name
    for file in re.findall('"/etc/firstcas/([^"]+)"', text):
        source = place.own_files / (Path(file).suffix.removeprefix(".") or "secret")
        (own / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, own / file)
    (own / "state").mkdir(parents=True)
    text = text.replace("/etc/firstcas/", f"{own}/").replace("/var/lib/firstcas", f"{own}/state")
    said = output(place.binary, "check", "-c", place.file(f"{name}/firstcas.toml", text), status=None)
    assert "configuration is good" in said, said


@check("the configuration of the package is good once its files are there")
def _(place):
    good_with_own_files(place, "debian", (CONF / "debian/firstcas.toml").read_text())


@check("the configuration in the Kubernetes example is good once its secrets are there")
def _(place):
    [config] = [it for it in kubernetes() if it["kind"] == "ConfigMap"]
    good_with_own_files(place, "kubernetes", config["data"]["firstcas.toml"])


@check("the configuration of the edges behind the balancer is good, and their page where the balancer looks for it")
def _(place):
    comment, *balancer = (CONF / "haproxy/haproxy.cfg").read_text().split("\n\n")
    [port] = re.findall(r"check port (\d+)", "".join(balancer))
    assert re.search(rf'\[admin\]\n# +address = "[0-9.]+:{port}"', comment), comment
    lines = [line.removeprefix("#").strip() for line in comment.splitlines()]
    rest = ["[directory]", f'ldif = "{CONF}/contoso.ldif"', "[routing]", 'local_site = "Lisbon"']
    good_with_own_files(place, "balanced", "\n".join(lines[lines.index("[[listener]]"):] + rest))


# ---- the image and Kubernetes

@check("the Containerfile is well made")
def _(place):
    output(Path(sys.prefix) / "bin/hadolint", CONF / "Containerfile")


@check("the image's first stage copies all that cargo needs")
def _(place):
    lines = re.findall(r"^COPY (?!--)(.*)$", (CONF / "Containerfile").read_text(), re.MULTILINE)
    copied = [ROOT / source for line in lines for source in line.split()[:-1]]
    said = output("cargo", "metadata", "--quiet", "--locked", "--offline", "--no-deps", "--format-version=1", cwd=ROOT)
    [package] = json.loads(said)["packages"]
    needed = [ROOT / "Cargo.toml", ROOT / "Cargo.lock", *(Path(target["src_path"]) for target in package["targets"])]
    missing = [it for it in needed if not any(it.is_relative_to(source) for source in copied)]
    assert len(needed) > 10 and not missing, missing


@check("the image's second stage has the libraries that the program is linked with")
def _(place):
    # What gcr.io/distroless/cc-debian12 is made of: libc6, libgcc-s1, libstdc++6.
    there = {"linux-vdso.so.1", "ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6", "libresolv.so.2", "libgcc_s.so.1",
             "libstdc++.so.6"}
    linked = output("ldd", place.binary)
    [copies] = re.findall(r"(awk '.*?') /linked", (CONF / "Containerfile").read_text())
    copied = subprocess.run(copies, shell=True, input=linked, capture_output=True, text=True, check=True).stdout
    there |= {Path(line).name for line in copied.splitlines()}
    needed = {Path(line.split()[0]).name for line in linked.splitlines()}
    assert needed <= there, needed - there
    assert "libgssapi_krb5.so.2" in needed, "the program was built without Kerberos"


@check("the image is built, and runs")
def _(place):
    raise NotHere("container registries, for its base images")


def kubernetes():
    return list(yaml.safe_load_all((CONF / "kubernetes/firstcas.yaml").read_text()))


@check("Kubernetes 1.30 and 1.37 know every field of the example")
def _(place):
    for version in ["1.30", "1.37"]:
        output(Path(sys.prefix) / "bin/kubernetes-validate", "-k", version, "--strict", "--quiet",
               CONF / "kubernetes/firstcas.yaml")


@check("in the Kubernetes example names, ports and times belong together")
def _(place):
    kinds = {it["kind"]: it for it in kubernetes()}
    pod = kinds["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    config = kinds["ConfigMap"]["data"]["firstcas.toml"]
    labels = pod["metadata"]["labels"].items()
    for selector in [kinds["Service"]["spec"]["selector"], kinds["Deployment"]["spec"]["selector"]["matchLabels"],
                     kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]]:
        assert selector.items() <= labels, selector
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    listener = r"\[\[listener\]\]"
    for name, table, protocol in [("https", listener, ""), ("imaps", listener, "imap4"), ("pop3s", listener, "pop3"),
                                  ("admin", r"\[admin\]", "")]:
        protocol = protocol and f'\nprotocol = "{protocol}"'
        assert re.search(rf'{table}\naddress = "0.0.0.0:{ports[name]}"{protocol}', config), name
    assert {it["targetPort"] for it in kinds["Service"]["spec"]["ports"]} == ports.keys() - {"admin"}
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"]:
        assert container[probe]["httpGet"]["port"] == "admin"
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    drain = int(re.search(r'drain_timeout = "(\d+)s"', config)[1])
    assert grace > container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain
    mounted = {it["mountPath"]: it["name"] for it in container["volumeMounts"]}
    assert set(mounted.values()) == {it["name"] for it in pod["spec"]["volumes"]}
    for path in re.findall(r'"(/[^"]+)"', config):
        assert any(Path(path).is_relative_to(mount) for mount in mounted), f"{path} is in none of {mounted}"


# ---- in front of the edges

@check("HAProxy takes the example of a balancer")
def _(place):
    assert output("haproxy", "-c", "-f", CONF / "haproxy/haproxy.cfg").strip() == "Configuration file is valid"


@check("keepalived takes the example of an address that moves")
def _(place):
    # keepalived 2.2.7 ends itself in a test whose scripts have a user other than root.
    text = (CONF / "keepalived/keepalived.conf").read_text()
    as_root = text.replace("script_user nobody nogroup", "script_user root")
    assert as_root != text
    said = output("keepalived", "--config-test", "-f", place.file("keepalived.conf", as_root))
    assert said == "", said


def main(binary):
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    passed, missing, failed = 0, 0, 0
    with tempfile.TemporaryDirectory(prefix="firstcas-packages-") as folder:
        place = Place(binary, Path(folder))
        for what, function in CHECKS:
            try:
                function(place)
            except NotHere as lack:
                missing += 1
                print(f"not here  {what}: this machine lacks {lack}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED    {what}\n{traceback.format_exc()}", flush=True)
            else:
                passed += 1
                print(f"ok        {what}", flush=True)
    print(f"packages: {passed} passed, {missing} not to be checked here, {failed} failed")
    return 1 if failed else 0
