#!/usr/bin/env bash
# Installs Debian's or Ubuntu's Slurm for the tests of the job files, if possible; otherwise these tests are skipped.
# Needs root. The tests start the daemons, with a configuration of their own.
set -euo pipefail

if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null; then
  exit 0
fi
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "Slurm is not installed and cannot be (no root, or no apt-get): the tests of the job files are skipped" >&2
  exit 0
fi
export DEBIAN_FRONTEND=noninteractive
{ apt-get -o Acquire::Retries=3 update && apt-get -o Acquire::Retries=3 install -y --no-install-recommends slurm-wlm munge; } \
  >/tmp/espalier-slurm-install.log 2>&1 ||
  echo "Slurm cannot be installed (see /tmp/espalier-slurm-install.log): the tests of the job files are skipped" >&2
