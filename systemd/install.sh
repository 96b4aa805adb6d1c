#!/usr/bin/env bash
# Called by `make install` and `make uninstall`; reads DESTDIR, PREFIX, WHEEL and PYTHON.
# Installs a virtual environment under PREFIX/lib/stackd, the command with its manual page and completions, and the units.
# It never overwrites or removes configuration and state.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

destdir=${DESTDIR:-}
prefix=${PREFIX:-/usr/local}
wheel=${WHEEL:-}
lib=$prefix/lib/stackd
# systemd looks for units below /usr and /usr/local only
case $prefix in /usr | /usr/local) units=$prefix/lib ;; *) units=/usr/local/lib ;; esac
# where each shell looks for completions, below PREFIX/share
declare -A completions=(
  [bash]=bash-completion/completions/stackd
  [zsh]=zsh/$([[ $prefix == /usr && -e /etc/debian_version ]] && echo vendor-completions || echo site-functions)/_stackd
  [fish]=fish/vendor_completions.d/stackd.fish
)
on_this_machine() { [[ -z $destdir && -d /run/systemd/system ]]; }
complain() {
  echo "stackd: $*" >&2
  exit 1
}

# The service runs as a user of its own and sees no home directory, so the interpreter must not be in one.
usable() {
  "$1" - 2>/dev/null <<'PY'
import ensurepip, os, sqlite3, ssl, sys, venv
home = ("/root/", "/home/", os.path.expanduser("~") + "/")
where = (os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix) + "/")
sys.exit(sys.version_info < (3, 11) or any(path.startswith(home) for path in where))
PY
}

interpreter() {
  local candidate
  for candidate in ${PYTHON:-/usr/bin/python3 /usr/local/bin/python3 python3 python3.14 python3.13 python3.12 python3.11}; do
    if usable "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  complain "needs Python 3.11 or newer with venv, outside of home directories (Debian: apt install python3-venv); name one with PYTHON=…"
}

install_stackd() {
  local python target=$destdir$lib source
  if [[ -z $destdir ]] && ((EUID != 0)); then complain "run it as root, or with DESTDIR=… for a package"; fi
  python=$(interpreter)
  source=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -rf '$source' '$target.new'" EXIT
  echo "installing stackd into $target with $("$python" --version)"
  mkdir -p "$destdir$prefix/lib"
  "$python" -m venv --clear "$target.new"
  install_packages "$target.new/bin/python" "$source"
  # scripts and settings that contain their own path get the final one, without DESTDIR and .new
  sed -i "1s|^#!.*|#!$lib/bin/python|" $(grep -rlI --include='*' -e "^#!.*$target.new" "$target.new/bin")
  sed -i "s|$target.new|$lib|g" "$target.new/pyvenv.cfg" "$target.new"/bin/activate*
  # on all CPUs, and not for what stackd never imports
  local unused='(pip|setuptools|pkg_resources|_distutils_hack|pygments|markdown_it)/|kubernetes/(aio/)?client/(api|models)/[a-z]'
  "$target.new/bin/python" -m compileall -q -f -j 0 -x "/site-packages/($unused)" \
    -s "$target.new" -p "$lib" "$target.new/lib"
  install -m 755 systemd/hand-over "$target.new/bin/hand-over"
  rm -rf "$target.old"
  [[ ! -e $target ]] || mv "$target" "$target.old"
  mv "$target.new" "$target"
  rm -rf "$target.old"
  install_files
  if on_this_machine; then settle; fi
}

# Of what comes over the network, root runs only wheels whose hashes are in the lock file: a source package would run its
# build, and fetch what the build needs. pip asks an index for nothing else.
install_packages() {
  local pip=("$1" -m pip --quiet --disable-pip-version-check --no-input)
  local install=("${pip[@]}" install --no-compile)
  missing() { complain "requirements.lock lacks what this version needs"; }
  "${install[@]}" --require-hashes --only-binary :all: --no-deps --requirement requirements.lock
  if [[ -n $wheel ]]; then
    "${install[@]}" --no-index "$wheel[server]" || missing
  else
    # built from a copy, so that root leaves nothing behind in the checkout; links become the files that they point to
    cp -rL pyproject.toml README.md LICENSE stackd "$2/"
    deb/version.sh "$2" >/dev/null
    "${install[@]}" --no-index --no-build-isolation "$2[server]" || missing
  fi
}

install_files() {
  mkdir -p "$destdir$prefix/bin"
  ln -sfn "$lib/bin/stackd" "$destdir$prefix/bin/stackd"
  install -d "$destdir$units/systemd/system"
  local unit
  for unit in stackd.service stackd-backup.service stackd-backup.timer; do
    sed -E "s#/usr/local/(bin|lib)/stackd#$prefix/\1/stackd#g" "systemd/$unit" >"$destdir$units/systemd/system/$unit"
  done
  install -Dm 644 systemd/stackd.sysusers.conf "$destdir$units/sysusers.d/stackd.conf"
  install -Dm 644 systemd/stackd.tmpfiles.conf "$destdir$units/tmpfiles.d/stackd.conf"
  install -d -m 750 "$destdir/etc/stackd" "$destdir/etc/stackd/templates"
  install_help
  if [[ ! -e $destdir/etc/stackd/config.toml ]]; then
    sed -e 's|^path = "stackd.db"|path = "/var/lib/stackd/stackd.db"|' \
      -e 's|^directory = ""|directory = "/etc/stackd/templates"|' \
      config.example.toml >"$destdir/etc/stackd/config.toml"
    chmod 640 "$destdir/etc/stackd/config.toml"
  fi
}

# Manual pages and completions, from the commands' own help and the table of the configuration's keys.
install_help() {
  local python=("$destdir$lib/bin/python" -I -B) shell
  install -d "$destdir$prefix/share/man/"man{1,5}
  "${python[@]}" deb/manpage.py >"$destdir$prefix/share/man/man1/stackd.1"
  "${python[@]}" deb/manpage.py config >"$destdir$prefix/share/man/man5/stackd-config.5"
  for shell in "${!completions[@]}"; do
    install -d "$(dirname "$destdir$prefix/share/${completions[$shell]}")"
    env "_STACKD_COMPLETE=${shell}_source" "${python[@]}" -c 'from stackd.cli import main; main()' \
      >"$destdir$prefix/share/${completions[$shell]}"
  done
}

settle() {
  systemd-sysusers "$units/sysusers.d/stackd.conf"
  systemd-tmpfiles --create "$units/tmpfiles.d/stackd.conf"
  systemctl daemon-reload
  case :$PATH: in
    *:$prefix/bin:*) ;;
    *) echo "$prefix/bin is not in PATH: call the command as $prefix/bin/stackd" ;;
  esac
  if systemctl is-active --quiet stackd.service; then
    echo "installed; to run the new version: systemctl restart stackd"
  else
    echo "installed; next: stackd setup, which shows what it will do and asks"
  fi
}

uninstall_stackd() {
  if on_this_machine; then systemctl disable --quiet --now stackd{.service,-backup.timer} 2>/dev/null || true; fi
  rm -rf "$destdir$lib"
  rm -f "$destdir$prefix/bin/stackd" "$destdir$units/systemd/system/stackd"{,-backup}.{service,timer} \
    "$destdir$units"/{sysusers,tmpfiles}.d/stackd.conf "$destdir$prefix/share/man/"{man1/stackd.1,man5/stackd-config.5} \
    "${completions[@]/#/$destdir$prefix/share/}"
  if on_this_machine; then systemctl daemon-reload; fi
  echo "uninstalled; kept: ${destdir}/etc/stackd, ${destdir}/var/lib/stackd and the user stackd"
  echo "nothing in the cluster was changed; docs/upgrade.md says how to remove what is there"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then # not if a test sources this file for its functions
  case ${1:-} in
    install) install_stackd ;;
    uninstall) uninstall_stackd ;;
    *) complain "usage: systemd/install.sh install|uninstall" ;;
  esac
fi
