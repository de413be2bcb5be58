#!/bin/busybox sh
# /init of the guest's initramfs. Debian's kernel has its virtio drivers as modules, so they are
# loaded here; then the system on the root disk takes over, or this one where there is none.
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || echo "guest: cannot load $module"
done

root=
mode=ro
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    ro | rw) mode=$word ;;
    esac
done
[ -n "$root" ] || exec /sbin/init

# The device node of the root disk, given as /dev/NAME or PARTUUID=ID.
root_disk() {
    case $root in
    PARTUUID=*) found=$(grep -ilx "$root" /sys/class/block/*/uevent) ;;
    *) found=/sys/class/block/${root#/dev/}/uevent ;;
    esac
    found=${found%/uevent}
    echo "/dev/${found##*/}"
}

# Disks appear a moment after their driver.
for _ in $(seq 250); do
    disk=$(root_disk)
    [ -b "$disk" ] && break
    usleep 20000
done
mount -t ext4 -o "$mode" "$disk" /root || echo "guest: cannot mount $root"
mount --move /dev /root/dev
umount /proc /sys
exec switch_root /root /sbin/init
