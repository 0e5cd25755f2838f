#!/usr/bin/env bash
# One part of the token shards, called by tokenize_array.sub: CONFIG PARTS PART [key.path=value ...]

# ---- Environment: choose one, delete the others -----------------------------------------------------------------
activate_environment() {
    source .venv/bin/activate                                          # made by `make setup`
    # source "$HOME/miniconda3/etc/profile.d/conda.sh" && conda activate liftoff
    # module purge && module load python/3.11 cuda && source .venv/bin/activate
    # export HF_HUB_OFFLINE=1                                          # on nodes without internet (data_setup.fetch)
}
# -----------------------------------------------------------------------------------------------------------------

set -eo pipefail  # not -u: the scripts that conda and modules bring do not stand it
[ $# -ge 3 ] || { echo "usage: $0 CONFIG PARTS PART [key.path=value ...]" >&2; exit 2; }

# CONFIG may be relative to where the job was submitted, or to the repository, which is above this file.
config=$1 parts=$2 part=$3
shift 3
[ ! -f "$config" ] || config=$(realpath "$config")
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/.."
activate_environment

exec python tokenize_data.py "$config" tokenize.parts="$parts" tokenize.part="$part" "$@"
