#!/bin/bash
# Trains on all GPUs of two machines and certifies the result: sbatch examples/slurm.sh
# Submitted again after a time limit or a failure, it goes on where it stopped. The folders of
# the run and of the data sets must be seen by all machines.
#SBATCH --job-name=citrus
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
set -euo pipefail

run=${RUN:-runs/cifar10-8-255}
settings=(--preset cifar10-8-255 --set train.batch_size=512)
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One torchrun on each machine, which starts a process for each of its GPUs.
together() {
    srun --kill-on-bad-exit=1 torchrun \
        --nnodes="$SLURM_NNODES" --nproc_per_node="${SLURM_GPUS_ON_NODE:-gpu}" \
        --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID" --rdzv_endpoint="$head:29500" \
        -m citrus_lirpa "$@"
}

together train "${settings[@]}" --out "$run" --requeue
together eval "$run" --requeue
