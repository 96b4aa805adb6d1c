"""The configuration: read once at the edge, checked as a whole, frozen from there on.

sections, policy    every key, with its kind, default and reason
kinds, units        kinds of value; durations (seconds) and sizes (bytes)
tomlfile, environ   the two places where keys stand
keyring, kubeconfig credentials: API keys, and which cluster
load, checks        from all places to a ``Config``, or to all mistakes at once
wording             what a mistake is called
settings, reload, reference    the keys as a list: what a reload may change, the example file, the README's table
"""

from stackd.config.kubeconfig import require_cluster
from stackd.config.load import Loaded, load
from stackd.config.policy import PolicySection, policy_of
from stackd.config.reload import LIVE_KEYS, Change, Changes, diff, merge_live
from stackd.config.sections import (
    AuthSection,
    BatchDeleteSection,
    ClusterSection,
    Config,
    LimitsSection,
    LogSection,
    MetricsSection,
    ReconcileSection,
    ServerSection,
    StacksSection,
    StateSection,
)
from stackd.keys import ApiKey

__all__ = [
    "LIVE_KEYS",
    "ApiKey",
    "AuthSection",
    "BatchDeleteSection",
    "Change",
    "Changes",
    "ClusterSection",
    "Config",
    "LimitsSection",
    "Loaded",
    "LogSection",
    "MetricsSection",
    "PolicySection",
    "ReconcileSection",
    "ServerSection",
    "StacksSection",
    "StateSection",
    "diff",
    "load",
    "merge_live",
    "policy_of",
    "require_cluster",
]
