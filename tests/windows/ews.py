"""A handful of canned answers of Exchange Web Services: what exchangelib needs to list an inbox and resolve a name."""
import re

SUBJECT = "Second Client Access Server"


def answer(request):
    operation = re.search(rb"<(?:\w+:)?Body[^>]*>\s*<(?:\w+:)?(\w+)", request)
    content = ANSWERS.get(operation.group(1).decode() if operation else "", FAULT)
    return (ENVELOPE % content).encode()


ENVELOPE = """<?xml version="1.0" encoding="utf-8"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
 xmlns:m="http://schemas.microsoft.com/exchange/services/2006/messages"
 xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types">
<s:Header><t:ServerVersionInfo MajorVersion="8" MinorVersion="3" MajorBuildNumber="83" MinorBuildNumber="6"/></s:Header>
<s:Body>%s</s:Body></s:Envelope>"""

FAULT = "<s:Fault><faultcode>s:Client</faultcode><faultstring>An unknown operation.</faultstring></s:Fault>"

RESPONSE = """<m:{0}Response><m:ResponseMessages><m:{0}ResponseMessage ResponseClass="Success">
<m:ResponseCode>NoError</m:ResponseCode>{1}</m:{0}ResponseMessage></m:ResponseMessages></m:{0}Response>"""

ANSWERS = {
    "GetFolder": RESPONSE.format("GetFolder", """<m:Folders><t:Folder><t:FolderId Id="inbox" ChangeKey="1"/>
        <t:ParentFolderId Id="root" ChangeKey="1"/><t:FolderClass>IPF.Note</t:FolderClass>
        <t:DisplayName>Inbox</t:DisplayName><t:TotalCount>1</t:TotalCount><t:ChildFolderCount>0</t:ChildFolderCount>
        <t:UnreadCount>1</t:UnreadCount></t:Folder></m:Folders>"""),
    "FindItem": RESPONSE.format("FindItem", f"""<m:RootFolder TotalItemsInView="1" IncludesLastItemInRange="true"
        IndexedPagingOffset="1"><t:Items><t:Message><t:ItemId Id="item" ChangeKey="1"/><t:Subject>{SUBJECT}</t:Subject>
        </t:Message></t:Items></m:RootFolder>"""),
    "ResolveNames": RESPONSE.format("ResolveNames", """<m:ResolutionSet TotalItemsInView="1"
        IncludesLastItemInRange="true"><t:Resolution><t:Mailbox><t:Name>Ana Almeida</t:Name>
        <t:EmailAddress>ana@contoso.com</t:EmailAddress>
        <t:RoutingType>SMTP</t:RoutingType><t:MailboxType>Mailbox</t:MailboxType></t:Mailbox></t:Resolution>
        </m:ResolutionSet>"""),
}
