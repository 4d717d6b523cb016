#!/bin/bash
# Process 1 of a node of the test cluster (tests/slurm/cluster.py), inside the node's own namespaces.
# Arguments: the node's name, the cluster's folder, and where Python is installed.
name=$1 folder=$2 python=$3
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind "$folder/hosts" /etc/hosts
ip link set lo up
# Python may lie below a folder that only root may enter, such as /root. Inside the node every user may.
closed=
for ((above = $(grep -o / <<<"$python" | wc -l); above > 0; above--)); do
  parent=$(cut -d/ -f1-$((above + 1)) <<<"$python")
  [ $((0$(stat -c %a "$parent") & 1)) = 1 ] || closed=$parent
done
if [ -n "$closed" ]; then
  mkdir -p "$folder/closed.$name"
  mount --rbind "$closed" "$folder/closed.$name"
  mount -t tmpfs -o mode=755 tmpfs "$closed"
  mkdir -p "$python"
  mount --rbind "$folder/closed.$name${python#"$closed"}" "$python"
fi
export SLURM_CONF=$folder/slurm.conf
if [ "$name" = controller ]; then
  munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" \
    --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge.seed" &
  until [ -S "$folder/munge.sock" ]; do sleep 0.02; done
  slurmctld -D -i &
else
  slurmd -D -N "$name" &
fi
while true; do sleep 3600 & wait $!; done # process 1 adopts and reaps what is left alone
