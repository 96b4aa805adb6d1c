"""The plugin's tables

Revision ID: b1f0c2a4d6e8
Revises:
"""

import sqlalchemy as sa
from CTFd.plugins.migrations import get_all_tables

revision = "b1f0c2a4d6e8"
down_revision = None
branch_labels = None
depends_on = None


def upgrade(op=None):
    tables = get_all_tables(op)
    if "stackd_challenge" not in tables:
        op.create_table(
            "stackd_challenge",
            sa.Column("id", sa.Integer, sa.ForeignKey("challenges.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("stackd_key", sa.String(32), nullable=False),
            sa.Column("stackd_template", sa.String(128)),
            sa.Column("stackd_pod_spec", sa.Text),
            sa.Column("stackd_ports", sa.String(255)),
            sa.Column("stackd_ttl", sa.String(32)),
            sa.Column("stackd_extension", sa.String(32)),
            sa.Column("stackd_extensions", sa.Integer),
            sa.Column("stackd_connection", sa.Text),
            sa.Column("stackd_stop_when_solved", sa.Boolean),
            sa.Column("stackd_flag_source", sa.String(16)),
            sa.Column("stackd_value", sa.String(64)),
            sa.Column("stackd_initial", sa.Integer),
            sa.Column("stackd_minimum", sa.Integer),
            sa.Column("stackd_decay", sa.Integer),
            sa.Column("stackd_function", sa.String(32)),
        )
    if "stackd_instances" not in tables:
        op.create_table(
            "stackd_instances",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("name", sa.String(32), unique=True, nullable=False),
            sa.Column("account", sa.String(48), nullable=False),
            sa.Column("account_name", sa.String(128)),
            sa.Column("slot", sa.Integer),
            sa.Column("challenge_key", sa.String(32)),
            sa.Column("challenge_id", sa.Integer),
            sa.Column("recipe", sa.Text, nullable=False),
            sa.Column("stack_id", sa.String(64)),
            sa.Column("todo", sa.String(8), index=True),
            sa.Column("once", sa.String(32)),
            sa.Column("attempts", sa.Integer, nullable=False),
            sa.Column("since", sa.Integer, nullable=False),
            sa.Column("not_before", sa.Integer, nullable=False),
            sa.Column("claimed_until", sa.Integer, nullable=False),
            sa.Column("created", sa.Integer, nullable=False),
            sa.Column("status", sa.String(16), nullable=False),
            sa.Column("message", sa.String(255), nullable=False),
            sa.Column("detail", sa.Text),
            sa.Column("addresses", sa.Text),
            sa.Column("expires", sa.Integer),
            sa.Column("extensions", sa.Integer, nullable=False),
            sa.UniqueConstraint("account", "slot"),
            sa.UniqueConstraint("account", "challenge_key"),
        )
    if "stackd_flags" not in tables:
        op.create_table(
            "stackd_flags",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("account", sa.String(48), nullable=False),
            sa.Column("account_name", sa.String(128)),
            sa.Column("challenge_key", sa.String(32), nullable=False),
            sa.Column("challenge_name", sa.String(80)),
            sa.Column("stack_id", sa.String(64), nullable=False),
            sa.Column("hash", sa.String(64), nullable=False),
            sa.Column("created", sa.Integer, nullable=False),
            sa.UniqueConstraint("stack_id", "hash"),
            sa.Index("ix_stackd_flags_account", "account", "challenge_key"),
            sa.Index("ix_stackd_flags_hash", "challenge_key", "hash"),
        )
    if "stackd_sharing" not in tables:
        op.create_table(
            "stackd_sharing",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("flag_id", sa.Integer, sa.ForeignKey("stackd_flags.id", ondelete="CASCADE"), nullable=False),
            sa.Column("sender", sa.String(48), nullable=False),
            sa.Column("sender_name", sa.String(128)),
            sa.Column("user_id", sa.Integer, nullable=False),
            sa.Column("user_name", sa.String(128)),
            sa.Column("sent", sa.Integer, nullable=False),
            sa.UniqueConstraint("flag_id", "sender", "user_id"),
        )


def downgrade(op=None):
    for table in ("stackd_sharing", "stackd_flags", "stackd_instances", "stackd_challenge"):
        op.drop_table(table)
