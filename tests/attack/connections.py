"""One Xero user who serves two accounts: neither sees, nor loses, what is the other's."""

from __future__ import annotations

from tests.attack.evidence import Evidence
from tests.attack.site import Site
from tests.serving import wait_until
from tests.world import World
from worker import connect, leftovers
from worker.errors import VendorError
from worker.xero import client as xero
from worker.xero import loopback, oauth


def xero_user_of_two_accounts_stays_apart(site: Site) -> Evidence:
    """Connect a second account by the Xero user of a first one, then close the first one."""
    evidence, first = Evidence(), site.open_tenant("Bookkept")
    user = f"user{first.account}@xero.test"
    second = World(site.sandbox, first.world.web, workers=True, xero_user=user).open(name="Bookkept too")
    site.sandbox.control("PUT", "app", json={"consent_to": second.tenants, "auto_consent": True, "consent_as": user})
    grant = connect.keep_grant(second.account, loopback.authorise(0, auto=True, say=_quiet), who="the attack")
    offered = connect.offered(second.account, grant)
    foreign = [offer for offer in offered if str(offer.tenant_id) in first.world.tenants]
    evidence.expect(not foreign, f"{len(foreign)} organisations of another account are offered")
    connect.disconnect(first.account, who="the attack")
    wait_until(lambda: not leftovers.clean_up(), seconds=30, what="the vendors being told")
    try:
        token = oauth.fresh(second.account, grant).token
        alive = {str(one.tenant_id) for one in xero.connections(token)}
        evidence.expect(set(second.tenants) <= alive, f"the other account's connection is still there: {len(alive)}")
    except VendorError as error:
        evidence.expect(False, f"the other account's connection died: {error}")
    return evidence


def _quiet(*_: object) -> None:
    """Nothing is said of the way to Xero and back."""
