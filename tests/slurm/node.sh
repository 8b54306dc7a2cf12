#!/bin/bash
# A Slurm of one node in a network and a name of its own: FOLDER CPUS COMMAND...; ends with the command.
# Called by `unshare --net --uts --mount --fork --pid --mount-proc`, hence all of it ends with this shell.
set -eu
folder=$1 cpus=$2
shift 2
ip link set lo up
ip address add 10.99.0.1/32 dev lo # slurmctld asks for an address that is not loopback (AI_ADDRCONFIG)
hostname localhost
mkdir -p "$folder"/{state,spool,munge}
chmod 711 "$folder"
head -c 1024 /dev/urandom > "$folder/munge/key"
chown -R munge:munge "$folder/munge"
chmod 755 "$folder/munge"
chmod 400 "$folder/munge/key"
cat > "$folder/cgroup.conf" <<END
CgroupPlugin=autodetect
END
cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmUser=root
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
MailProg=/bin/true
KillWait=2
MinJobAge=600

NodeName=localhost NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=16000
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$folder/slurm.conf"
# munged wants to write below its user
runuser -u munge -- /usr/sbin/munged --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
  --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" --force
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N localhost
for _ in $(seq 300); do
  [ "$(sinfo --noheader --format=%t 2> /dev/null)" = idle ] && break
  sleep 0.1
done
"$@"
