#!/usr/bin/env bash
# Raw documents to token shards on many machines: each task of the array makes one part, the last to finish joins them.
#
#     sbatch slurm/run_tokenize_array.sh configs/user_configs/mine.yaml [key.path=value ...]
#
# The line --array=0-15 below says how many parts there are; change it here (in a copy) and nowhere else. A task that
# failed is run again: sbatch --array=3 slurm/run_tokenize_array.sh ...; it goes on where it stopped.
# Without Slurm: bash instead of sbatch makes all parts, one after the other.
#
#SBATCH --job-name=tokenize_array
#SBATCH --output=%x-%A_%a.out
#SBATCH --array=0-15
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

# Read from the line above: an --array on the command line, to run some tasks again, does not change it.
parts=$(($(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "${BASH_SOURCE[0]}") + 1))

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

mine=(tokenize.parts="$parts")
[ -z "${SLURM_ARRAY_TASK_ID:-}" ] || mine+=(tokenize.part="$SLURM_ARRAY_TASK_ID")
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || mine+=(tokenize.num_workers="$SLURM_CPUS_PER_TASK")
python tokenize_data.py "$config" "${mine[@]}" "$@"
