#!/bin/bash
# Process 1 of a node of the test cluster (tests/slurm/cluster.py), inside the node's own namespaces.
# Arguments: the node's name, the cluster's folder.
name=$1 folder=$2
hostname "$name"
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o size=2g tmpfs /dev/shm
mount --bind "$folder/hosts" /etc/hosts
ip link set lo up
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
