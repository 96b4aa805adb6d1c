"""The configuration: read once at the start, checked completely, and frozen.

sections      every key, with its kind, default and reason; [policy] is ``podspec``'s
sources       a TOML file and the environment, and the draft in which their values and mistakes are gathered
credentials   API keys, systemd's credentials, and which cluster
load          makes a ``Config`` of the draft, or reports all mistakes at once
settings      the keys as a list: what a reload may change, the example file, the table of the docs
"""

from stackd.config.credentials import require_cluster
from stackd.config.load import LoadedConfig, load
from stackd.config.sections import (
    Config,
    LimitsSection,
    LogSection,
    RoutesSection,
    StacksSection,
    TemplatesSection,
    policy_of,
)
from stackd.config.settings import SettingChange, diff, merge_live
from stackd.keys import ApiKey
from stackd.podspec.policy import PolicySection

__all__ = [
    "ApiKey",
    "Config",
    "LimitsSection",
    "LoadedConfig",
    "LogSection",
    "PolicySection",
    "RoutesSection",
    "SettingChange",
    "StacksSection",
    "TemplatesSection",
    "diff",
    "load",
    "merge_live",
    "policy_of",
    "require_cluster",
]
