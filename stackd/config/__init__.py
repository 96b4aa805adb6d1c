"""The configuration: read once at the start, checked completely, and frozen.

sections      every key, with its kind, default and reason; [policy] is ``podspec``'s
sources       a TOML file and the environment, and the draft in which their values and mistakes are gathered
credentials   API keys, systemd's credentials, and which cluster
load          makes a ``Config`` of the draft, or reports all mistakes at once
settings      the keys as a list: what a reload may change, the example file, the table of the docs
"""

from stackd.config.credentials import require_cluster as require_cluster
from stackd.config.load import LoadedConfig as LoadedConfig
from stackd.config.load import load as load
from stackd.config.sections import Config as Config
from stackd.config.sections import LimitsSection as LimitsSection
from stackd.config.sections import LogSection as LogSection
from stackd.config.sections import RoutesSection as RoutesSection
from stackd.config.sections import StacksSection as StacksSection
from stackd.config.sections import TemplatesSection as TemplatesSection
from stackd.config.sections import policy_of as policy_of
from stackd.config.settings import SettingChange as SettingChange
from stackd.config.settings import diff as diff
from stackd.config.settings import merge_live as merge_live
from stackd.keys import ApiKey as ApiKey
from stackd.podspec.policy import PolicySection as PolicySection
