#!/bin/sh
# The shell on the serial console, for programs. Reads one command a line, runs it in this same
# shell and answers `@@ N STATUS`, N counting from 1. Says `@@ 0 0` once it is ready.
export PATH=/bin:/sbin HOME=/
cd /
stty -echo
# From here on only a panic writes into the conversation; `dmesg` still has everything.
dmesg -n 1
answered=0
echo "@@ 0 0"
while IFS= read -r command; do
    eval "$command"
    status=$?
    answered=$((answered + 1))
    echo "@@ $answered $status"
done
