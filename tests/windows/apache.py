"""Second CASs played by Apache with mod_auth_gssapi and gss-ntlmssp: one instance a site, one port a server.

Where the credential is bound to the connection (`GssapiConnectionBound On`), a new handshake on an authenticated
connection is answered 401, which is how this kind differs from IIS. Where it is not, each request needs one of its own.
"""
import os, shutil
from pathlib import Path

import processes


class Apache:
    def __init__(self, directory, started, site, servers, pki, kdc, ntlm_users=None, connection_bound=True, plain=()):
        """`servers` is a list of names, of which those in `plain` have no TLS; `self.ports` tells where each listens.

        `kdc` says `env`, the environment in which its realm is found, and `keytab`. Without `ntlm_users` it is Kerberos
        alone.
        """
        self.directory = Path(directory) / f"apache-{site}"
        temporary = self.directory / "tmp"  # the Kerberos replay cache lives there, one for each instance
        temporary.mkdir(parents=True)
        self.log = self.directory / "requests"
        self.ports = {server: processes.free_port() for server in servers}
        handler = self.directory / "answer.lua"
        handler.write_text(HANDLER)
        config = CONFIG.format(directory=self.directory, log=self.log, handler=handler, modules=MODULES,
                               bound="On" if connection_bound else "Off",
                               ntlm="GssapiAllowedMech ntlmssp" if ntlm_users else "")
        if os.geteuid() == 0:
            config += "User www-data\nGroup www-data\n"
            shutil.chown(temporary, "www-data", "www-data")
        for server, port in self.ports.items():
            config += VIRTUAL_HOST.format(server=server, port=port, tls="" if server in plain else TLS.format(pki=pki))
        (self.directory / "apache.conf").write_text(config)
        output = self.directory / "output"
        command = ["/usr/sbin/apache2", "-d", self.directory, "-f", "apache.conf", "-DFOREGROUND"]
        env = {**kdc.env, "KRB5_KTNAME": str(kdc.keytab), "TMPDIR": str(temporary)}
        if ntlm_users:
            env |= {"NTLM_USER_FILE": str(ntlm_users), "NETBIOS_DOMAIN_NAME": "CONTOSO",
                    "NETBIOS_COMPUTER_NAME": site.upper()}
        apache = started.start(f"Apache of {site}", command, output, env)
        for port in self.ports.values():
            processes.wait_for_port(port, apache, output)


MODULES = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in [
    "mpm_event", "authn_core", "authz_core", "authz_user", "auth_gssapi", "ssl", "headers", "lua"])

CONFIG = """
{modules}
ServerName contoso.com
PidFile {directory}/pid
Mutex file:{directory} default
DefaultRuntimeDir {directory}
ErrorLog {directory}/errors
LogLevel warn auth_gssapi:info ssl:info
DocumentRoot {directory}
StartServers 1
ServerLimit 1
ThreadsPerChild 128
MinSpareThreads 1
MaxSpareThreads 128
MaxRequestWorkers 128
KeepAliveTimeout 120
MaxKeepAliveRequests 0
SSLSessionCache none

Header always set X-Contoso-Connection "expr=apache-%{{CONN_LOG_ID}}"
Header always set X-Contoso-User "expr=%{{REMOTE_USER}}"
LogFormat "%{{X-Contoso-Server}}o\\t%{{X-Contoso-Connection}}o\\t%{{X-Contoso-User}}o\\t%m\\t%U%q\\t%>s" contoso
CustomLog {log} contoso

LuaMapHandler .* {handler}
<Location />
    AuthType GSSAPI
    AuthName contoso
    GssapiConnectionBound {bound}
    GssapiAllowedMech krb5
    {ntlm}
    GssapiSSLonly Off
    Require valid-user
</Location>
"""

VIRTUAL_HOST = """
Listen 127.0.0.1:{port}
<VirtualHost 127.0.0.1:{port}>
    ServerName {server}.contoso.com
    Header always set X-Contoso-Server {server}
    {tls}
</VirtualHost>
"""

TLS = """SSLEngine on
    SSLCertificateFile {pki}/servers.pem
    SSLCertificateKeyFile {pki}/servers.key"""

# Takes the whole body in, as a CAS would, and says what it was.
HANDLER = """
function handle(r)
    local body = r:requestbody() or ""
    r.content_type = "text/plain"
    r.headers_out["X-Contoso-Body"] = #body .. " " .. r:md5(body)
    r:puts("user " .. (r.user or "-") .. "\\n")
    return apache2.OK
end
"""
