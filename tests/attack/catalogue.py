"""Every attack that once succeeded, ordered by severity."""

from __future__ import annotations

from tests.attack import admission, connections, erasure, errors, limits, resources, roles, sessions, supply
from tests.attack.evidence import Attack

ATTACKS = tuple(
    Attack(run)
    for run in (
        erasure.erased_account_stays_erased,
        supply.embedded_database_is_no_way_to_root,
        admission.stranger_needs_an_invitation,
        admission.copper_callback_stores_nothing_unasked,
        resources.slow_copper_does_not_hold_pages,
        resources.held_panels_do_not_slow_others,
        resources.pages_and_exports_do_not_starve_others,
        resources.made_up_keys_cost_nothing,
        limits.endless_request_head_ends,
        limits.wrong_tries_do_not_lock_out_admins,
        erasure.forgotten_person_leaves_no_trace,
        roles.other_database_of_cluster_sees_nothing,
        supply.image_holds_no_secret,
        connections.xero_user_of_two_accounts_stays_apart,
        errors.odd_input_is_no_server_error,
        errors.failure_logs_no_secret,
        admission.webhook_secret_is_not_kept,
        errors.export_starts_no_formula,
        errors.redirect_carries_no_key,
        limits.foreign_host_is_not_echoed,
        limits.readiness_is_cheap,
        admission.panel_code_cannot_be_phished,
        limits.refusals_are_logged,
        roles.audit_log_cannot_be_flooded_or_altered,
        supply.bundled_programs_are_listed,
        supply.compose_grants_least_privilege,
        limits.client_addresses_are_not_reversible,
        sessions.sessions_end_and_can_be_ended,
        resources.panel_viewers_do_not_share_a_limit,
        roles.small_leaks_are_closed,
    )
)
