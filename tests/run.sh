#!/bin/sh
# Sets up everything that the tests need, then checks and tests the project.
#
#   sh tests/run.sh            all of it
#   sh tests/run.sh -k naming  ruff, mypy and only these tests, in turn: arguments go to pytest
#   sh tests/run.sh --proof    tries to break the promise, for up to 30 minutes: see --proof --help
#
# The environment is .venv beside the README, or the one that VENV names. Debian packages that are
# missing are installed where apt-get may; without them the tests that need them are skipped, or
# fail where CI=true is set.
set -eu
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE # hundreds of processes start: none compiles what another has

# A Debian package for each program that the tests start.
packages=""
want() {
    PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
want curl curl
want erl erlang-base
want strace strace
want bindfs bindfs
want mount mount
want prlimit util-linux
want nginx nginx
want apache2 apache2
want fail2ban-regex fail2ban
want php php-cli
want wrk wrk
want openssl openssl
want systemd-analyze systemd
want mariadbd mariadb-server
want chromium chromium
want flite flite
want sox sox
for module in wsgi:libapache2-mod-wsgi-py3 xsendfile:libapache2-mod-xsendfile qos:libapache2-mod-qos; do
    [ -e "/usr/lib/apache2/modules/mod_${module%%:*}.so" ] || packages="$packages ${module#*:}"
done
[ -n "$(ls /usr/lib/apache2/modules/libphp*.so 2>/dev/null)" ] ||
    packages="$packages libapache2-mod-php"
[ -n "$(ls /usr/sbin/php-fpm* 2>/dev/null)" ] || packages="$packages php-fpm"
[ -n "$(ls /usr/lib/postgresql/*/bin/postgres 2>/dev/null)" ] || packages="$packages postgresql"
if [ "${1:-}" = --proof ]; then
    want mkfs.ext4 e2fsprogs
    want mkfs.xfs xfsprogs
fi
# mod_wsgi needs an environment of the system's own Python.
[ -x /usr/bin/python3 ] && /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null ||
    packages="$packages python3-venv"
[ -d /usr/lib/erlang/lib ] && ls /usr/lib/erlang/lib | grep -q '^inets-' ||
    packages="$packages erlang-inets"

if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update
        # shellcheck disable=SC2086
        apt-get -qq install -y --no-install-recommends $packages >/dev/null
    else
        echo "Some tests will be skipped. To run all: sudo apt-get install$packages" >&2
    fi
fi

venv=${VENV:-.venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --editable '.[test-all]'

"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/mypy"
if [ "${1:-}" = --proof ]; then
    shift
    exec "$venv/bin/python" tests/proof "$@"
fi
[ $# -gt 0 ] || set -- -n "$(($(nproc) * 2))" # side by side: many wait for something
exec "$venv/bin/python" -m pytest "$@"
