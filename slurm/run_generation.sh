#!/usr/bin/env bash
# Writing text from a prompts file, on one GPU.
#
#     sbatch slurm/run_generation.sh configs/user_configs/mine.yaml [key.path=value ...]
#
# Without Slurm: bash instead of sbatch. Copy it to slurm/user_slurm/ (not in git) to change it.
#
#SBATCH --job-name=generation
#SBATCH --output=%x-%j.out
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00

# ---- Environment: choose one, delete the others -----------------------------------------------------------------
activate_environment() {
    source .venv/bin/activate                                          # made by `make setup`
    # source "$HOME/miniconda3/etc/profile.d/conda.sh" && conda activate liftoff
    # module purge && module load python/3.11 cuda && source .venv/bin/activate
    # export HF_HUB_OFFLINE=1                                          # on nodes without internet (data_setup.fetch)
}
# -----------------------------------------------------------------------------------------------------------------

set -eo pipefail  # not -u: the scripts that conda and modules bring do not stand it
[ $# -ge 1 ] || { echo "usage: sbatch $0 CONFIG [key.path=value ...]" >&2; exit 2; }

# The repository is above this file. Slurm runs a copy of it, so Slurm is asked where the original lies.
script=${BASH_SOURCE[0]}
if [ "$(basename "$script")" = slurm_script ]; then
    script=$(scontrol show job "$SLURM_JOB_ID" | sed -n '0,/^ *Command=/s/^ *Command=//p')
    script=${script%" $*"}
fi
repository=$(cd "$(dirname "$script")" && pwd)
while [ ! -f "$repository/train.py" ] && [ "$repository" != / ]; do repository=$(dirname "$repository"); done

# CONFIG may be relative to where the job was submitted, or to the repository.
config=$1
shift
[ ! -f "$config" ] || config=$(realpath "$config")
cd "$repository"
[ -f train.py ] || { echo "error: no Liftoff above $script: keep this script in slurm/ or slurm/user_slurm/" >&2; exit 2; }
activate_environment

python generation.py "$config" "$@"
