"""The Kerberos KDC of CONTOSO.COM: MIT's, with the people of the directory and one service account for all servers."""
import os, re, subprocess
from pathlib import Path

import processes

SERVICE_PASSWORD = "Service-Pass-word1"


class Kdc:
    def __init__(self, directory, started, people, password, hosts):
        """Realm, database and keytab in `directory`; `hosts` are the names of the service account's HTTP services."""
        self.directory = Path(directory)
        self.directory.mkdir()
        self.keytab = self.directory / "asa.keytab"
        port = processes.free_port()
        config, kdc_config = self.directory / "krb5.conf", self.directory / "kdc.conf"
        config.write_text(KRB5_CONF.format(port=port))
        kdc_config.write_text(KDC_CONF.format(port=port, directory=self.directory))
        self.env = {"KRB5_CONFIG": str(config), "KRB5_KDC_PROFILE": str(kdc_config)}
        self._run("/usr/sbin/kdb5_util", "create", "-s", "-r", "CONTOSO.COM", "-P", "master")
        # An Alternate Service Account is one account, hence one key, with many names. MIT has an account for each name;
        # the same password, salted with the realm alone, gives them the same key.
        services = [f"HTTP/{host}" for host in hosts]
        commands = [f"addprinc -pw {password} {person}" for person in people]
        commands += [f"addprinc -pw {SERVICE_PASSWORD} -e aes256-cts:onlyrealm {service}" for service in services]
        commands += [f"ktadd -norandkey -k {self.keytab} {service}" for service in services]
        self._run("/usr/sbin/kadmin.local", "-r", "CONTOSO.COM", stdin="\n".join(commands) + "\n")
        self.keytab.chmod(0o644)  # Apache's own user reads it; nothing of it outlives the test
        log = self.directory / "kdc.out"
        command = ["/usr/sbin/krb5kdc", "-n", "-r", "CONTOSO.COM", "-P", self.directory / "pid"]
        kdc = started.start("krb5kdc", command, log, self.env)
        processes.wait_for_port(port, kdc, log)

    def ticket(self, person, password):
        """Logs on and returns the credential cache's name."""
        cache = f"FILE:{self.directory}/ticket-{person}"
        self._run("kinit", "-c", cache, f"{person}@CONTOSO.COM", stdin=password + "\n")
        return cache

    def account(self, name):
        """Makes an account, and returns its keytab."""
        keytab = self.directory / f"{name}.keytab"
        commands = [f"addprinc -randkey {name}", f"ktadd -k {keytab} {name}"]
        self._run("/usr/sbin/kadmin.local", "-r", "CONTOSO.COM", stdin="\n".join(commands) + "\n")
        return keytab

    def require_preauthentication(self, people):
        """As Active Directory: who does not know the password gets nothing to try passwords on."""
        commands = [f"modprinc +requires_preauth {person}" for person in people]
        self._run("/usr/sbin/kadmin.local", "-r", "CONTOSO.COM", stdin="\n".join(commands) + "\n")

    def flags(self, **env):
        """What the ticket of the client keytab's account is like that one gets in this environment, as klist(1) has it."""
        cache = f"FILE:{self.directory}/ticket-of-keytab"
        self._run("kinit", "-k", "-i", "-c", cache, **env)
        return re.search(r"Flags: (\w+)", self._run("klist", "-f", cache))[1]

    def _run(self, *command, stdin="", **env):
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=30,
                              env={**os.environ, **self.env, **env})
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
        return done.stdout


# Names are taken as they are: no DNS is asked, neither for the KDC nor for a host's canonical name. Forwardable tickets are
# turned off, as somebody may have done for people.
KRB5_CONF = """
[libdefaults]
    default_realm = CONTOSO.COM
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    forwardable = false
    udp_preference_limit = 1
[realms]
    CONTOSO.COM = {{
        kdc = 127.0.0.1:{port}
    }}
[domain_realm]
    .contoso.com = CONTOSO.COM
"""

KDC_CONF = """
[kdcdefaults]
    kdc_listen = ""
    kdc_tcp_listen = 127.0.0.1:{port}
[realms]
    CONTOSO.COM = {{
        database_name = {directory}/principal
        key_stash_file = {directory}/stash
        acl_file = {directory}/acl
        supported_enctypes = aes256-cts:normal
    }}
[logging]
    kdc = FILE:{directory}/kdc.log
    default = FILE:{directory}/default.log
"""
