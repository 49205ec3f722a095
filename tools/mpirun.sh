#!/bin/sh
# Starts a program on several ranks of this machine, for any number of cores:
#
#     tools/mpirun.sh -n 3 build/espalier run inputs/quickstart.ini
#
# By default Open MPI refuses root and more ranks than cores. It also pins ranks to cores, so several jobs on
# one machine would share the same cores. The exit status is the program's. MPIRUN names another mpirun.
# OMPI_MCA_* variables of the caller override the values below. Ctrl-C and SIGTERM ask the program for a checkpoint.
set -eu

if [ "$#" -lt 3 ] || [ "$1" != "-n" ]; then
  echo "usage: tools/mpirun.sh -n RANKS PROGRAM [ARGUMENT...]" >&2
  exit 2
fi

mpirun=${MPIRUN:-}
# If several MPIs are installed, plain mpirun may belong to another one.
for name in mpirun.openmpi mpirun; do
  [ -n "$mpirun" ] || mpirun=$(command -v "$name" || true)
done
if [ -z "$mpirun" ]; then
  echo "error: no mpirun found; install Open MPI (Debian: openmpi-bin) or set MPIRUN to it" >&2
  exit 2
fi

# Ranks that wait inside MPI yield the core to ranks that work.
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
# Open MPI would warn if the machine has no fast network hardware.
export OMPI_MCA_btl_base_warn_component_unused="${OMPI_MCA_btl_base_warn_component_unused:-0}"

# Ranks of one machine need no proof of who they are. Else PMIx asks munge, a daemon of batch systems. If munge was stopped, each start
# waits two seconds for it.
export PMIX_MCA_psec="${PMIX_MCA_psec:-native}"

# Else PMIx keeps a file of 4 MB in /tmp, and a job that may not write it (ulimit -f, a full disk) hangs.
export PMIX_MCA_gds="${PMIX_MCA_gds:-hash}"

# mpirun gives every program a pseudo terminal, so the program cannot tell if its output goes to a real one.
[ ! -t 1 ] || export ESPALIER_TERMINAL=1

# All ranks run on this machine. If variables of a batch system are set, as within salloc or in a container of a job,
# Open MPI would look for its launcher, and fail if there is none.
export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
export OMPI_MCA_ras="${OMPI_MCA_ras:-^slurm,gridengine,tm,lsf,alps}"

# mpirun is killed by a signal if one of its three streams is closed.
( : 3<&0 ) 2>/dev/null || exec </dev/null
( : 3>&1 ) 2>/dev/null || exec >/dev/null
( : 3>&2 ) || exec 2>/dev/null

root=
[ "$(id -u)" -ne 0 ] || root=--allow-run-as-root

# The program says why it ends; -q silences what mpirun would add, up to fifteen lines. Its errors before the program starts are silenced
# too, so a missing program is found here, and with options of mpirun before the program there is no -q.
quiet=
case $3 in
  -*) ;;
  *)
    quiet=-q
    if [ ! -x "$(command -v -- "$3" || true)" ]; then
      echo "error: there is no program $3" >&2
      exit 2
    fi
    ;;
esac

# At SIGINT or SIGTERM mpirun kills its ranks, but SIGUSR1 it passes on. A session of its own keeps the terminal's signals away from
# it. If this shell is killed, so is mpirun.
exec 3<&0  # a shell takes standard input away from what it starts beside itself
job=
asked=
# mpirun loses a signal that comes before its first rank runs, so wait for one, a minute at most. Until then its children have its name.
ask() {
  last=$(date +%s)
  asked=${asked:-$last}
  [ -n "$job" ] || return 0
  tries=600
  while [ "$tries" -gt 0 ] && name=$(ps -o comm= -p "$job" 2>/dev/null); do
    ! ps -o comm= --ppid "$job" | grep -qvxF "$name" || break
    tries=$((tries - 1))
    sleep 0.1
  done
  kill -USR1 "$job" 2>/dev/null || true
}
trap ask INT TERM USR1
setsid setpriv --pdeathsig KILL "$mpirun" $quiet $root --oversubscribe --bind-to none "$@" <&3 3<&- &
job=$!
[ -z "$asked" ] || ask
# A trap interrupts the first wait.
while :; do
  wait "$job" && status=0 || status=$?
  kill -0 "$job" 2>/dev/null || break
done
# SIGUSR1 kills the program only until it has started. A second request, a second after the first, ends a run with the
# same status.
if [ "$status" -eq 138 ] && [ -n "$asked" ] && [ "$asked" = "$last" ]; then
  echo "stopped before the run began; nothing was written, start again to run" >&2
  exit 85
fi
# A rank that was killed could not say so.
[ "$status" -le 128 ] || [ -n "$asked" ] || echo "error: a rank was ended by signal $((status - 128))" >&2
exit "$status"
