#!/bin/sh
# First thing that init runs on the way down; then it ends every process and resets the machine.
echo "guest: shutting down"
sync
umount -a -r 2>/dev/null
