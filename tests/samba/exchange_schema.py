"""What Exchange adds to the schema of Active Directory, as far as firstcas reads it, as LDIF for Samba.

Names, syntaxes and the published OIDs are Exchange's own. Where no OID is published, one of a private arc stands in.
homeMDB is a linked attribute, as in Exchange; msExchServerSite is one there too, but the number of the link is not
published, so it is a plain DN here.
"""

# Microsoft's arc for everybody's own extensions, then a UUID of ours in pieces. (Samba knows no 2.25.)
PRIVATE = "1.2.840.113556.1.8000.2554.47963.25565.50436.20488.44822.16177101.10847715"
PRIVATE_ATTRIBUTE, PRIVATE_CLASS = PRIVATE + ".1", PRIVATE + ".2"

# Attributes: name, OID (a number: of the private arc), syntax, one value or many, in the global catalog, search flags.
INDEX, ANR = 1, 4  # [MS-ADTS] 2.2.10
ONE, MANY = "TRUE", "FALSE"
GC, NOT_GC = True, False
ATTRIBUTES = [
    # people
    ("homeMDB", "1.2.840.113556.1.2.244", "dn", ONE, GC, INDEX),
    ("homeMDBBL", 1, "dn", MANY, NOT_GC, 0),
    ("msExchHomeServerName", "1.2.840.113556.1.4.7000.102.47", "text", ONE, GC, INDEX),
    ("mailNickname", "1.2.840.113556.1.2.447", "text", ONE, GC, INDEX | ANR),
    ("msExchMailboxGuid", "1.2.840.113556.1.4.7000.102.11058", "octets", ONE, GC, INDEX),
    ("msExchMasterAccountSid", "1.2.840.113556.1.4.7000.102.81", "sid", ONE, GC, INDEX),
    ("msExchRecipientTypeDetails", "1.2.840.113556.1.4.7000.102.50855", "integer8", ONE, GC, INDEX),
    # servers, databases, virtual directories
    ("msExchServerSite", 2, "dn", ONE, NOT_GC, 0),
    ("msExchCurrentServerRoles", 3, "integer", ONE, NOT_GC, 0),
    ("msExchOwningServer", "1.2.840.113556.1.4.7000.102.11004", "dn", ONE, NOT_GC, 0),
    ("msExchInternalHostName", 4, "text", MANY, NOT_GC, 0),
    ("msExchExternalHostName", 5, "text", MANY, NOT_GC, 0),
    ("msExchInternalAuthenticationMethods", 6, "integer", ONE, NOT_GC, 0),
    ("msExchExternalAuthenticationMethods", 7, "integer", ONE, NOT_GC, 0),
    ("msExchMetabasePath", 8, "text", ONE, NOT_GC, 0),
]
LINKS = {"homeMDB": 32, "homeMDBBL": 33}

# [MS-ADTS] 3.1.1.2.2.2: attributeSyntax, oMSyntax, and for DNs oMObjectClass.
SYNTAXES = {
    "text": "attributeSyntax: 2.5.5.12\noMSyntax: 64\n",
    "integer": "attributeSyntax: 2.5.5.9\noMSyntax: 2\n",
    "integer8": "attributeSyntax: 2.5.5.16\noMSyntax: 65\n",
    "octets": "attributeSyntax: 2.5.5.10\noMSyntax: 4\n",
    "sid": "attributeSyntax: 2.5.5.17\noMSyntax: 4\n",
    "dn": "attributeSyntax: 2.5.5.1\noMSyntax: 127\noMObjectClass:: KwwCh3McAIVK\n",
}

# Attributes that Active Directory has without Exchange, and which Exchange's setup puts into the global catalog.
INTO_GLOBAL_CATALOG = ["Proxy-Addresses"]

# Classes: name, OID (a number: of the private arc), kind, superclass, possible superiors, attributes.
# (msExchConfigurationContainer is part of Active Directory itself.)
STRUCTURAL, ABSTRACT, AUXILIARY = 1, 2, 3
CLASSES = [
    ("msExchMailStorage", 1, AUXILIARY, "top", "",
     "homeMDB msExchHomeServerName mailNickname msExchMailboxGuid msExchMasterAccountSid msExchRecipientTypeDetails "
     "proxyAddresses legacyExchangeDN"),
    ("msExchOrganizationContainer", 3, STRUCTURAL, "container", "container", "legacyExchangeDN"),
    ("msExchAdminGroupContainer", 4, STRUCTURAL, "top", "msExchOrganizationContainer", ""),
    ("msExchAdminGroup", 5, STRUCTURAL, "top", "msExchAdminGroupContainer", "legacyExchangeDN"),
    ("msExchServersContainer", 6, STRUCTURAL, "top", "msExchAdminGroup", ""),
    ("msExchExchangeServer", "1.2.840.113556.1.5.7000.62.50009", STRUCTURAL, "server", "msExchServersContainer",
     "legacyExchangeDN networkAddress versionNumber msExchCurrentServerRoles msExchServerSite"),
    ("msExchInformationStore", 7, STRUCTURAL, "container", "msExchExchangeServer", ""),
    ("msExchStorageGroup", 8, STRUCTURAL, "container", "msExchInformationStore", ""),
    ("msExchMDB", 9, ABSTRACT, "top", "msExchStorageGroup", "msExchOwningServer legacyExchangeDN homeMDBBL"),
    ("msExchPrivateMDB", 10, STRUCTURAL, "msExchMDB", "msExchStorageGroup", ""),
    ("msExchProtocolCfgHTTPContainer", 11, STRUCTURAL, "container", "container", ""),
    ("msExchVirtualDirectory", 20, STRUCTURAL, "top", "container",
     "msExchMetabasePath msExchInternalHostName msExchExternalHostName msExchInternalAuthenticationMethods "
     "msExchExternalAuthenticationMethods"),
] + [(f"msExch{kind}VirtualDirectory", 21 + number, STRUCTURAL, "msExchVirtualDirectory", "container", "")
     for number, kind in enumerate(["OWA", "Mobile", "WebServices", "AutoDiscover", "OAB", "ECP", "RpcHttp", "Mapi"])]

# Who may do what with an object of these classes: administrators and the system all, every account with a password
# reads. Without it nobody but administrators sees a thing.
READABLE = "D:(A;;RPWPCRCCDCLCLORCWOWDSDDTSW;;;DA)(A;;RPWPCRCCDCLCLORCWOWDSDDTSW;;;SY)(A;;RPLCLORC;;;AU)"

# Exchange's classes that people have without saying so, by being users.
AUXILIARY_OF_USER = "msExchMailStorage"

RELOAD = "dn:\nchangetype: modify\nadd: schemaUpdateNow\nschemaUpdateNow: 1\n\n"


def steps(forest):
    """LDIF texts for `ldbmodify`, in order; each takes the one before for granted. `forest` is the root's DN."""
    schema = f"CN=Schema,CN=Configuration,{forest}"
    attributes = "".join(attribute(schema, *row) for row in ATTRIBUTES)
    attributes += "".join(f"dn: CN={cn},{schema}\nchangetype: modify\nreplace: isMemberOfPartialAttributeSet\n"
                          f"isMemberOfPartialAttributeSet: TRUE\n\n" for cn in INTO_GLOBAL_CATALOG)
    classes, unloaded = RELOAD, set()  # Samba loads nothing at a transaction's first reload
    for row in CLASSES:
        name, _, _, superclass, superiors, _ = row
        if unloaded & {superclass, *superiors.split()}:
            classes += RELOAD
            unloaded.clear()
        unloaded.add(name)
        classes += class_(schema, *row)
    user = f"dn: CN=User,{schema}\nchangetype: modify\nadd: auxiliaryClass\nauxiliaryClass: {AUXILIARY_OF_USER}\n\n"
    return [attributes + RELOAD, classes + RELOAD + user + RELOAD]


def attribute(schema, name, oid, syntax, single, in_global_catalog, flags):
    text = (f"dn: CN={name},{schema}\nchangetype: add\nobjectClass: attributeSchema\nlDAPDisplayName: {name}\n"
            f"attributeID: {oid_of(PRIVATE_ATTRIBUTE, oid)}\n{SYNTAXES[syntax]}isSingleValued: {single}\n"
            f"searchFlags: {flags}\n")
    if in_global_catalog:
        text += "isMemberOfPartialAttributeSet: TRUE\n"
    if name in LINKS:
        text += f"linkID: {LINKS[name]}\n"
    if name.endswith("BL"):
        text += "systemFlags: 1\n"  # not replicated: the server makes it from the forward link
    return text + "\n"


def class_(schema, name, oid, kind, superclass, superiors, attributes):
    text = (f"dn: CN={name},{schema}\nchangetype: add\nobjectClass: classSchema\nlDAPDisplayName: {name}\n"
            f"governsID: {oid_of(PRIVATE_CLASS, oid)}\nobjectClassCategory: {kind}\nsubClassOf: {superclass}\n"
            f"rDNAttID: cn\ndefaultSecurityDescriptor: {READABLE}\ndefaultObjectCategory: CN={name},{schema}\n")
    text += "".join(f"possSuperiors: {superior}\n" for superior in superiors.split())
    return text + "".join(f"mayContain: {attribute}\n" for attribute in attributes.split()) + "\n"


def oid_of(arc, oid):
    return f"{arc}.{oid}" if isinstance(oid, int) else oid
