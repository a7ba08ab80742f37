#!/bin/sh
# Run a Bento as its container would: container.sh WORK BENTO VENV REPOSITORY UID ENVIRONMENT VOLUME=FOLDER... -- COMMAND...
# Root, in a mount namespace of its own (unshare --mount): what is mounted here is gone with the process.
set -eu
work=$1 bento=$2 venv=$3 repository=$4 uid=$5 environment=$6
shift 6
root=$work/root

# The image: this machine's root, with the Bento where the image has it, and without the repository's own code.
mount -t tmpfs tmpfs "$work"
mkdir "$root" "$work/upper" "$work/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
chmod o+x "$root/root"  # where Python may be
mkdir -p "$root/app" "$root/home/bentoml/bento"
ln -s "$venv" "$root/app/.venv"
cp -a "$bento/." "$root/home/bentoml/bento"
chown -R "$uid:$uid" "$root/home/bentoml"
for package in lynceus service model_store training; do
    mount -t tmpfs -o ro tmpfs "$root$repository/$package"
done

# The volumes, and what every container has of a machine.
while [ "$1" != -- ]; do
    mkdir -p "$root${1%%=*}"
    mount --bind "${1#*=}" "$root${1%%=*}"
    shift
done
shift
mount --bind /proc "$root/proc"
mount -t tmpfs -o size=64m tmpfs "$root/dev"
mkdir -m 1777 "$root/dev/shm"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -o remount,ro "$root/dev"
mount -t tmpfs -o size=64m tmpfs "$root/dev/shm"
mount -o remount,ro "$root"

exec chroot "$root" setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all env -i $environment "$@"
