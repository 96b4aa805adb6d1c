#!/usr/bin/env bash
# version.sh [TREE]: print the version of this checkout as Python's packaging has it (PEP 440); write it into a copy of it in TREE.
# At the tag v1.0.0 that is what stackd/version.py says; elsewhere 1.0.0.dev20261130184205+g1a2b3c4, by the time and hash of the
# commit, with .dirty at its end if files were changed since. After v1.0.0 there is none until the line is raised. A source archive
# has no history, and says what it was built as.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$(sed -n 's/^__version__ = "\([^"]*\)".*/\1/p' stackd/version.py)

# the checkout's owner may be another user than root, who installs from it
git() { command git --no-optional-locks -c "safe.directory=$PWD" -c core.fsmonitor=false "$@"; }

if [[ -e .git && $version != *.dev* ]]; then
  command -v git >/dev/null && hash=$(git rev-parse --verify --quiet HEAD) \
    || { echo "stackd: cannot read the history in $PWD/.git: this build calls itself $version" >&2; hash=; }
  if [[ -n $hash ]]; then
    changed=$(git status --porcelain --untracked-files=no)
    tagged=$(git tag --points-at HEAD "v$version")
    if [[ -z $tagged ]] && git merge-base --is-ancestor "v$version" HEAD 2>/dev/null; then
      echo "stackd: v$version is released already, and dpkg would sort this build before it: raise the line in stackd/version.py" >&2
      exit 1
    fi
    if [[ -n $changed || -z $tagged ]]; then
      at=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S)  # two builds of a day are sorted, too
      version+=.dev$at+g${hash:0:7}${changed:+.dirty}
    fi
  fi
fi
if (($#)); then
  sed -i "s/^__version__ = \"[^\"]*\"/__version__ = \"$version\"/" "$1/stackd/version.py"
fi
echo "$version"
