#!/usr/bin/env bash
# A real Slurm on this machine, for tests: two nodes that share its processors, daemons of Debian's packages,
# all files below one folder. Needs root.
#
#     tests/slurm/cluster.sh start FOLDER    prints the SLURM_CONF to use
#     tests/slurm/cluster.sh stop FOLDER
set -euo pipefail

verb=$1
folder=$(realpath -m "$2")
# Not Slurm's usual ports, so that a cluster of the machine is not disturbed.
control_port=16817
node_port=16820

start() {
  mkdir -p "$folder"/{state,spool/n1,spool/n2,run,tmp/n1,tmp/n2}
  chmod 755 "$folder"
  [[ -s /etc/munge/munge.key ]] || dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none
  chown munge: /etc/munge/munge.key
  chmod 400 /etc/munge/munge.key
  munge -n >/dev/null 2>&1 || {
    mkdir -p /run/munge
    chown munge: /run/munge
    runuser -u munge -- /usr/sbin/munged --num-threads 2
  }
  cat >"$folder/slurm.conf" <<EOF
ClusterName=espalier
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$control_port
SlurmUser=root
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
TmpFS=$folder/tmp/%n
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=5
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$node_port CPUs=32 RealMemory=64000
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((node_port + 1)) CPUs=32 RealMemory=64000
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
EOF
  export SLURM_CONF="$folder/slurm.conf"
  slurmctld
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    [[ $(sinfo -h -o %T -n n1,n2 2>/dev/null | sort -u) == idle ]] && break
    sleep 0.5
  done
  sinfo -N >&2
  echo "$SLURM_CONF"
}

stop() {
  for name in slurmctld slurmd-n1 slurmd-n2; do
    [[ ! -s $folder/run/$name.pid ]] || kill "$(<"$folder/run/$name.pid")" 2>/dev/null || true
  done
}

"$verb"
