#!/usr/bin/env bash
# Called by `make deb`; reads PYTHON, DIST, SOURCE_DATE_EPOCH and, as dpkg-deb does, DPKG_DEB_COMPRESSOR_TYPE. Writes
# dist/stackd_VERSION_ARCH.deb for this distribution and its python3: what `make install` installs below /usr, with a man page, shell completions and maintainer scripts.
# The same commit, distribution and machine type give the same bytes.
set -euo pipefail
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/.."

complain() {
  echo "stackd: $*" >&2
  exit 1
}

# as Debian's own tools take it
maintainer="${DEBFULLNAME:-the maintainers of stackd} <${DEBEMAIL:-stackd@users.noreply.github.com}>"
# of [project.urls], once the project has one
homepage=$(sed -n 's/^Homepage = "\(.*\)"$/\1/p' pyproject.toml)
for tool in dpkg-deb dpkg-shlibdeps; do
  command -v "$tool" >/dev/null || complain "needs $tool (Debian: apt install dpkg-dev)"
done
python=$(readlink -f "$(command -v "${PYTHON:-/usr/bin/python3}")") || complain "there is no ${PYTHON:-/usr/bin/python3}"
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[[ $python == "/usr/bin/python$minor" ]] \
  || complain "the package depends on the distribution's python3; $python is another one (leave PYTHON out)"
[[ $(readlink -f /usr/bin/python3) == "$python" ]] \
  || complain "the package depends on the distribution's default python3, and that is not $python"
next=${minor%.*}.$((${minor#*.} + 1))
architecture=$(dpkg --print-architecture)
# the last commit's time; of a source archive, the newest of its files
commit_time=$(git log -1 --format=%ct -- . 2>/dev/null || true)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-${commit_time:-$(stat -c %Y pyproject.toml)}}
export PYTHONHASHSEED=0 LC_ALL=C.UTF-8 TZ=UTC

work=$(mktemp -d)
# shellcheck disable=SC2064
trap "rm -rf '$work'" EXIT
root=$work/debian/stackd
lib=$root/usr/lib/stackd
share=$root/usr/share
doc=$share/doc/stackd

DESTDIR=$root PREFIX=/usr PYTHON=$python systemd/install.sh install
version=$("$lib/bin/python" -I -B -c 'from stackd.version import VERSION; print(VERSION)')

# What only an installation needs, and what tells where this was built.
packages=$lib/lib/python$minor/site-packages
rm -rf "$packages"/{pip,setuptools,_distutils_hack,pkg_resources} "$packages"/{pip,setuptools}-*.dist-info \
  "$packages"/distutils-precedence.pth "$packages"/stackd-*.dist-info/direct_url.json
sed -i '/direct_url\.json,/d; \|^\.\./\.\./\.\./bin/|d' "$packages"/*.dist-info/RECORD
find "$lib/bin" -mindepth 1 ! -name 'python*' ! -name stackd ! -name hand-over -delete
rm -f "$lib/.gitignore"
gzip -9n "$share/man/man1/stackd.1" "$share/man/man5/stackd-config.5"
# Settings without explanations: it changes only with them, so that an upgrade seldom asks about one that was edited.
install -m 640 deb/config.toml "$root/etc/stackd/config.toml"

install -d "$doc/examples" "$share/lintian/overrides"
install -m 644 config.example.toml "$doc/examples/"
cp -r monitoring examples/* "$doc/examples/"
cp -r docs "$doc/"
install -D -m 644 -t "$doc/integrations/ctfd" integrations/ctfd/README.md # the plugin itself: stackd ctfd install
find "$doc" -name __pycache__ -prune -exec rm -rf {} +
install -m 644 README.md "$doc/"
install -m 644 deb/copyright "$doc/copyright"
install -m 644 deb/lintian-overrides "$share/lintian/overrides/stackd"
gzip -9n <CHANGELOG.md >"$doc/CHANGELOG.md.gz"
gzip -9n >"$doc/changelog.gz" <<CHANGELOG
stackd ($version) unstable; urgency=medium

  * CHANGELOG.md.gz, beside this file, lists the changes.

 -- $maintainer  $(date -uR -d "@$SOURCE_DATE_EPOCH")
CHANGELOG

run() { "$lib/bin/python" -I -B "$@"; }
echo "Source: stackd" >"$work/debian/control"
libraries=$(cd "$work" && find debian/stackd -name '*.so' -print0 | sort -z | xargs -0 dpkg-shlibdeps -O 2>shlibdeps.log) \
  || complain "dpkg-shlibdeps: $(tail -n 3 "$work/shlibdeps.log")"
libraries=${libraries#shlibs:Depends=}
formats=$(run -c 'from stackd.store.schema import FORMAT; print(FORMAT)')

# links within the package, and to the distribution's Python, by relative paths
ln -sfn ../lib/stackd/bin/stackd "$root/usr/bin/stackd"
ln -sfn "../../../bin/python$minor" "$lib/bin/python$minor"
ln -sfn "python$minor" "$lib/bin/python3"
ln -sfn python3 "$lib/bin/python"

control=$root/DEBIAN
install -d "$control"
size=$(du -sk --apparent-size --exclude=DEBIAN "$root" | cut -f1)
sed -e "s|@VERSION@|$version|; s|@ARCHITECTURE@|$architecture|; s|@SIZE@|$size|; s|@MAINTAINER@|$maintainer|" \
  -e "s|@DEPENDS@|python3 (>= $minor~), python3 (<< $next), $libraries|" -e "${homepage:+s|@HOMEPAGE@|$homepage|}" \
  -e '/@HOMEPAGE@/d' deb/control >"$control/control"
echo /etc/stackd/config.toml >"$control/conffiles"
for script in preinst postinst prerm postrm; do
  sed -e "s|@FORMATS@|$formats|; s|@VERSION@|$version|" "deb/$script" >"$control/$script"
  chmod 755 "$control/$script"
done
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$control/md5sums"

find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
deb=${DIST:-dist}/stackd_${version}_$architecture.deb
mkdir -p "$(dirname "$deb")"
dpkg-deb --root-owner-group -Z"${DPKG_DEB_COMPRESSOR_TYPE:-xz}" -z2 --build "$root" "$work/built.deb" >/dev/null
mv "$work/built.deb" "$deb"
echo "built $deb ($(du -h "$deb" | cut -f1)) with $("$python" --version)"
