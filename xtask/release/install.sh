#!/bin/sh
# Installs Penstock @VERSION@ into $PREFIX/bin (/usr/local/bin). Every file is compared with SHA256SUMS, and that with its signature where
# PENSTOCK_SIGNERS names a file of signers that you trust (ssh-keygen(1), "ALLOWED SIGNERS").
set -eu
version=@VERSION@
from=${PENSTOCK_DOWNLOAD_URL:-@SOURCE@/releases/download/v$version}
prefix=${PREFIX:-/usr/local}

fail() { echo "install.sh: $*" >&2; exit 1; }
for tool in curl tar sha256sum install; do
  command -v "$tool" >/dev/null || fail "$tool is missing: install it first"
done
[ "$(uname -s)" = Linux ] || fail "there are programs for Linux only: elsewhere use the image, or build from source"
case $(uname -m) in
  x86_64) machine=x86_64 ;;
  aarch64 | arm64) machine=aarch64 ;;
  *) fail "there are no programs for $(uname -m): build from source" ;;
esac

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
get() { curl --fail --silent --show-error --location --retry 3 --output "$1" "$from/$1" || fail "$from/$1 cannot be fetched"; }
get SHA256SUMS
if [ -n "${PENSTOCK_SIGNERS:-}" ]; then
  get SHA256SUMS.sig
  ssh-keygen -Y verify -f "$PENSTOCK_SIGNERS" -I release -n penstock-release -s SHA256SUMS.sig <SHA256SUMS >/dev/null \
    || fail "SHA256SUMS was not signed by any of $PENSTOCK_SIGNERS"
fi
# glibc of Debian 12 or later is needed for the one, nothing for the other.
archive=
for libc in ${PENSTOCK_LIBC:-gnu musl}; do
  name=penstock-$version-$machine-unknown-linux-$libc.tar.gz
  if grep -q "  $name\$" SHA256SUMS; then archive=$name; break; fi
done
[ -n "$archive" ] || fail "this release has no programs for $machine"
get "$archive"
grep "  $archive\$" SHA256SUMS | sha256sum --check --quiet --strict || fail "$archive is not the file that was released"
tar -xzf "$archive"
mkdir -p "$prefix/bin"
install -m 755 "${archive%.tar.gz}"/bin/* "$prefix/bin/"
echo "$("$prefix/bin/penstock" --version) is in $prefix/bin"
