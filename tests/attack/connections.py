"""A Xero user shared by two accounts: neither sees or loses connections of the other."""

from __future__ import annotations

from services import connect
from tests.attack.evidence import Evidence
from tests.attack.site import Site
from tests.support.serving import wait_until
from tests.support.world import World
from worker.sync import cleanup_tasks
from worker.vendors.errors import VendorError
from worker.vendors.xero import cli_oauth, oauth
from worker.vendors.xero import client as xero


def shared_xero_user_is_isolated(site: Site) -> Evidence:
    """Connect a second account by the Xero user of the first one, then close the first one."""
    evidence, first = Evidence(), site.open_tenant("Bookkept")
    user = f"user{first.account}@xero.test"
    second = World(site.sandbox, first.world.web, workers=True, xero_user=user).open(name="Bookkept too")
    site.sandbox.control(
        "PUT", "app", json={"consent_tenant_ids": second.tenants, "auto_consent": True, "consent_user": user}
    )
    grant = connect.save_grant(second.account, cli_oauth.authorise(0, auto=True, echo=_quiet), actor="the attack")
    offered = connect.list_authorised_organisations(second.account, grant)
    foreign = [offer for offer in offered if str(offer.tenant_id) in first.world.tenants]
    evidence.expect(not foreign, f"{len(foreign)} organisations of another account are offered")
    connect.disconnect(first.account, actor="the attack")
    wait_until(lambda: not cleanup_tasks.run_due(), seconds=30, description="the vendors being told")
    try:
        token = oauth.get_valid_grant(second.account, grant).token
        connected = {str(connection.tenant_id) for connection in xero.list_connections(token)}
        evidence.expect(
            set(second.tenants) <= connected, f"the other account's connection is still there: {len(connected)}"
        )
    except VendorError as error:
        evidence.expect(False, f"the other account's connection died: {error}")
    return evidence


def _quiet(*_: object) -> None:
    """Print nothing about the OAuth flow."""
