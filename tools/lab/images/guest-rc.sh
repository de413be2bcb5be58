#!/bin/sh
# Start of the guest's user space, from the initramfs and from the root disk alike.
export PATH=/bin:/sbin
[ -c /dev/ttyS0 ] || mount -t devtmpfs dev /dev
[ -e /proc/self ] || mount -t proc proc /proc
[ -e /sys/kernel ] || mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
ip link set lo up
hostname guest
