"""Every attack that once succeeded, ordered by severity."""

from __future__ import annotations

from tests.attack import admission, connections, erasure, errors, limits, resources, roles, sessions, supply
from tests.attack.evidence import Attack

ATTACKS = tuple(
    Attack(run)
    for run in (
        erasure.erased_account_stays_erased,
        supply.embedded_database_grants_no_root,
        admission.stranger_needs_an_invitation,
        admission.unsolicited_callbacks_store_nothing,
        resources.slow_copper_does_not_block_pages,
        resources.long_polls_do_not_slow_others,
        resources.pages_and_exports_do_not_starve_others,
        resources.invalid_keys_cost_nothing,
        limits.endless_headers_are_refused,
        limits.wrong_attempts_do_not_lock_out_admins,
        erasure.erased_person_leaves_no_trace,
        roles.other_databases_have_no_access,
        supply.image_contains_no_secret,
        connections.shared_xero_user_is_isolated,
        errors.malformed_input_is_no_server_error,
        errors.failure_logs_no_secret,
        admission.webhook_secret_is_not_stored,
        errors.export_contains_no_formula,
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
        resources.panel_viewers_have_separate_limits,
        roles.small_leaks_are_closed,
    )
)
