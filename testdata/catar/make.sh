#!/bin/sh
# Makes the archives of README.md in the directory that holds this script.
set -eu
out=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'chattr -R -f -ia "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
umask 022

mkdir dir dir/empty many
printf 'contents\n' > dir/file
: > dir/nothing
head -c 7000 /dev/zero > dir/zeros
for i in $(seq 40); do : > "many/$i"; done
ln -s ../dir/file dir/link
mknod null c 1 3
mknod loop b 7 4095
mkfifo fifo
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
printf x > 'space newline
 and \ backslash'
printf x > "$(printf '\377\001')"

printf x > owned && chown daemon:bin owned && chmod 6755 owned
printf x > unnamed && chown 50001:50002 unnamed
printf x > xattrs
setfattr -n user.empty xattrs
setfattr -n user.binary -v 0x00ff00 xattrs
setfattr -n trusted.t -v value xattrs
setfattr -n user.on-a-directory -v value dir
printf x > acl && setfacl -m u:daemon:rw,u:50001:r,g:bin:-,m:rw acl
setfacl -m u:50001:rwx,d:u:daemon:rx,d:g:50002:r,d:o:- dir
setfacl -d -m u::rwx,g::rx,o::- dir/empty
printf x > capable && setcap cap_net_raw+ep capable
printf x > labelled && setfattr -n security.selinux -v '"system_u:object_r:etc_t:s0\000"' labelled
printf x > readonly && chmod 0444 readonly
printf x > nodump && chattr +d nodump
printf x > noatime && chattr +A noatime
printf x > append
printf x > immutable

# Times are set last, deepest first; the seconds differ so that order shows.
python3 - <<'PY'
import os
t = 1600000000
paths = []
for base, dirs, files in os.walk(b".", topdown=False):
    paths += [os.path.join(base, n) for n in files + dirs]
for i, p in enumerate(sorted(paths, reverse=True) + [b"."]):
    ns = (t + i) * 10**9 + 123456789
    os.utime(p, ns=(ns, ns), follow_symlinks=False)
PY
chattr +a append
chattr +i immutable

make() { name=$1; shift; casync make "$@" "$out/$name.catar" "$dir" > /dev/null; }
make default
make unix --with=unix
make fat --with=fat
make none-sha256 --without=all --digest=sha256
make image --with=32bit-uids --with=nsec-time --with=acl --with=symlinks --with=device-nodes --with=fifos \
	--with=sockets --with=xattrs --with=fcaps --exclude-nodump=no --exclude-file=no
make fuse --with=fuse
make nodump --exclude-nodump=no
chmod 0644 "$out"/*.catar
