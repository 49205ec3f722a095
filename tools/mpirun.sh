#!/bin/sh
# Starts a program on several ranks of this machine, whatever its core count:
#
#     tools/mpirun.sh -n 3 build/espalier run inputs/quickstart.ini
#
# Open MPI alone refuses more ranks than cores, and refuses root; it also pins ranks to cores, which several
# jobs on one machine would then share. The exit status is the program's. MPIRUN names another mpirun;
# Open MPI's own OMPI_MCA_* variables win over what is set here.
set -eu

if [ "$#" -lt 3 ] || [ "$1" != "-n" ]; then
  echo "usage: tools/mpirun.sh -n RANKS PROGRAM [ARGUMENT...]" >&2
  exit 2
fi

mpirun=${MPIRUN:-}
# Where several MPIs are installed, plain mpirun may be another one's.
for name in mpirun.openmpi mpirun; do
  [ -n "$mpirun" ] || mpirun=$(command -v "$name" || true)
done
if [ -z "$mpirun" ]; then
  echo "error: no mpirun found; install Open MPI (Debian: openmpi-bin) or set MPIRUN to it" >&2
  exit 2
fi

# Ranks that wait inside MPI give way to those that work.
export OMPI_MCA_mpi_yield_when_idle="${OMPI_MCA_mpi_yield_when_idle:-1}"
# A machine without fast network hardware is nothing to warn about.
export OMPI_MCA_btl_base_warn_component_unused="${OMPI_MCA_btl_base_warn_component_unused:-0}"

# mpirun gives every program a terminal of its own; only here is it known whether a person looks on.
[ ! -t 1 ] || export ESPALIER_TERMINAL=1

# The ranks are of this machine. Left alone, Open MPI would look for the launcher of a batch system whose variables
# are there, as within salloc or in a container of a job, and end where that is missing.
export OMPI_MCA_plm="${OMPI_MCA_plm:-isolated}"
export OMPI_MCA_ras="${OMPI_MCA_ras:-^slurm,gridengine,tm,lsf,alps}"

# mpirun ends by a signal where one of its three streams is closed.
( : 3<&0 ) 2>/dev/null || exec </dev/null
( : 3>&1 ) 2>/dev/null || exec >/dev/null
( : 3>&2 ) || exec 2>/dev/null

root=
[ "$(id -u)" -ne 0 ] || root=--allow-run-as-root

exec "$mpirun" $root --oversubscribe --bind-to none "$@"
