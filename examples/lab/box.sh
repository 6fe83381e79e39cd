#!/usr/bin/env bash
# The box made by hand: a folder with a few programs, the libraries that they need, and a view of the
# processes. It is on a file system of its own, so that it goes with the sandbox.
set -e
box=/mnt/box
mountpoint -q /mnt || mount -t tmpfs -o mode=755 box /mnt
mkdir -p $box/{bin,proc,data,tmp}
for name in bash ls ps kill cat grep curl; do
  program=$(type -P $name)
  cp "$program" $box/bin/
  for library in $(ldd "$program" | grep -o '/[^ ]*'); do
    mkdir -p "$box${library%/*}"
    cp -n "$library" "$box$library"
  done
done
mountpoint -q $box/proc || mount --rbind /proc $box/proc
