"""Sessions end when nobody uses them, are confirmed anew, and can be told apart in a list; sign-ins are found again."""

import sqlalchemy as sa

from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '3s'")
    now, nothing = sa.text("now()"), sa.text("''")
    instant = sa.DateTime(timezone=True)
    op.add_column("web_session", sa.Column("used_at", instant, nullable=False, server_default=now))
    op.add_column("web_session", sa.Column("confirmed_at", instant, nullable=True))
    op.add_column("web_session", sa.Column("method", sa.Text(), nullable=False, server_default=sa.text("'key'")))
    op.add_column("web_session", sa.Column("surface", sa.Text(), nullable=False, server_default=sa.text("'pages'")))
    op.add_column("web_session", sa.Column("client", sa.Text(), nullable=False, server_default=nothing))
    # Viewers, and admins whom an admin named, came by Copper's own sign-in: they have no key to confirm with.
    op.execute("""
        UPDATE web_session s SET method = 'copper'
        WHERE s.role = 'viewer'
           OR EXISTS (SELECT FROM named_admin n WHERE n.account_id = s.account_id AND n.user_id = s.user_id)
    """)
    op.create_check_constraint(op.f("web_session_method_check"), "web_session", "method IN ('key', 'copper')")
    op.create_check_constraint(op.f("web_session_surface_check"), "web_session", "surface IN ('pages', 'panel')")
    op.create_index(
        "audit_admin_sign_in_idx",
        "audit",
        ["account_id", "id"],
        postgresql_where=sa.text("action = 'admin.signed_in'"),
    )


def downgrade() -> None:
    op.drop_index("audit_admin_sign_in_idx", table_name="audit")
    for name in ("method", "surface"):
        op.drop_constraint(op.f(f"web_session_{name}_check"), "web_session", type_="check")
    for column in ("client", "surface", "method", "confirmed_at", "used_at"):
        op.drop_column("web_session", column)
