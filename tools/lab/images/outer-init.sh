#!/bin/busybox sh
# PID 1 of the outer machine: Debian's kernel under QEMU, with a /dev/kvm for the monitor under
# test. Prepares the machine, then hands over to the agent. When the agent ends, so does PID 1:
# the kernel panics, QEMU exits, and the command on the host notices at once.
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup

for module in $(cat /modules/order); do
    insmod "/modules/$module.ko" || echo "lab: cannot load $module"
done

# Guests may promise themselves more memory than this machine has.
echo 1 > /proc/sys/vm/overcommit_memory
# An oops ends the run now, not with a timeout.
echo 1 > /proc/sys/kernel/panic_on_oops
ip link set lo up
hostname outer

# Devices appear a moment after their drivers.
for _ in $(seq 100); do
    [ -b /dev/vda ] && [ -c /dev/vport*p1 ] && break
    usleep 20000
done
mount -o ro /dev/vda /images || echo "lab: cannot mount the images"
mount -o loop,ro /images/tools.ext4 /tools || echo "lab: cannot mount the tools"

exec lab agent /dev/vport*p1
