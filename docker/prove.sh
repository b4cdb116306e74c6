#!/usr/bin/env bash
# Prove the image: build it, run the same config in it and on the host, and compare what came out.
#
# Needs .venv (`make install`) and a Docker engine: the one that DOCKER_HOST names or `docker info` finds, else dockerd,
# which root can start here for the time of the proof. Needs a base image: BASE, else what the Dockerfile names if the
# engine has it or can pull it, else one that debootstrap makes. Exits with 77 where one of them is not to be had.
# CONFIG and UTTERANCES choose the run. Work goes to TMPDIR, else /var/tmp: up to 12 GB where the engine is started here.
set -euo pipefail
cd "$(dirname "$0")/.."
config=$(realpath "${CONFIG:-scenario_configs/mg_mdnf_pgd_l2.json}")
utterances=${UTTERANCES:-2}
image=armory-mdnf-proof
debian=debian:bookworm-slim
limit_bytes=7000000000
engine_bytes=12000000000
bin=$PWD/.venv/bin
export TF_CPP_MIN_LOG_LEVEL=2 TF_ENABLE_ONEDNN_OPTS=0 MPLBACKEND=Agg KMP_WARNINGS=0

skip() {
    echo "docker/prove.sh: skipped: $1"
    exit 77
}

[ -x "$bin/armory" ] || { echo "docker/prove.sh: no .venv: run \`make install\` first" >&2; exit 1; }
site=$(echo "$PWD"/.venv/lib/python3.*/site-packages)

work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
chmod 755 "$work"
engine=
images=("$image")
made=()
clean_up() {
    if [ -z "$engine" ]; then
        docker image rm --force "${images[@]}" >/dev/null 2>&1 || true
    else
        kill "$engine" 2>/dev/null || true
        wait "$engine" || true
        rm -rf "${made[@]}"
        rmdir /sys/fs/cgroup/docker /sys/fs/cgroup/*/docker 2>/dev/null || true
    fi
    # dockerd leaves a network namespace mounted; debootstrap, cut short, /proc.
    awk -v under="$work/" 'index($2, under) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount || true
    rm -rf --one-file-system "$work"
}
trap clean_up EXIT

# Who runs Armory: the caller, or, where the engine is ours to open, somebody who is not root and has no account. Where
# root's Python is closed to others, another one of its version runs what .venv holds. How numpy splits a sum, and so
# its last digit, depends on the number of threads: the container does not inherit the caller's.
home=$work/home
mkdir "$home"
caller=()
python=("$bin/python")
as_caller() {
    "${caller[@]}" env -u OMP_NUM_THREADS -u OPENBLAS_NUM_THREADS -u MKL_NUM_THREADS \
        HOME="$home" TMPDIR="$home" NUMBA_CACHE_DIR="$home" LOGNAME=caller "$@"
}
if ! docker info >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
        skip "no Docker engine answers, and none can be started here"
    fi
    if [ "$(df --output=avail -B1 "$work" | tail -n 1)" -lt "$engine_bytes" ]; then
        skip "an engine of its own needs $engine_bytes bytes of disk: set TMPDIR to a folder that has them"
    fi
    export DOCKER_HOST=unix://$work/sock
    caller=(setpriv --reuid 1234 --regid 1234 --clear-groups)
    if ! as_caller "${python[@]}" -c 'import numpy' 2>/dev/null; then
        python=(env "PYTHONPATH=$PWD:$site" "$(basename "$(dirname "$site")")")
        if ! as_caller "${python[@]}" -c 'import numpy, armory_mdnf' 2>/dev/null; then
            echo "only root can read .venv: root runs Armory"
            caller=()
            python=("$bin/python")
        fi
    fi
    for path in /etc/docker /etc/docker/key.json /opt/containerd /run/docker /run/containerd; do
        [ -e "$path" ] || made+=("$path")
    done
    dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" --host "$DOCKER_HOST" --group 1234 \
        --iptables=false --ip6tables=false --bridge=none --storage-driver overlay2 >"$work/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 60); do
        docker info >/dev/null 2>&1 && break
        kill -0 "$engine" 2>/dev/null || { tail -n 3 "$work/dockerd.log"; skip "dockerd does not start here"; }
        sleep 1
    done
    docker info >/dev/null 2>&1 || skip "dockerd does not answer"
fi

if [ -z "${BASE:-}" ] && ! docker image inspect "$debian" >/dev/null 2>&1; then
    if docker pull -q "$debian" >/dev/null 2>&1; then
        images+=("$debian")
    else
        if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
            skip "no base image: set BASE to a Debian or Ubuntu image that this engine has"
        fi
        echo "== base"
        BASE=armory-mdnf-proof-base
        images+=("$BASE")
        debootstrap --variant=minbase bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 \
            || { tail -n 3 "$work/debootstrap.log"; skip "debootstrap cannot make a base image here"; }
        # A package index behind a certificate of this site's own is reached only with the host's list of authorities.
        authorities=/etc/ssl/certs/ca-certificates.crt
        changes=()
        if [ -f $authorities ]; then
            cp $authorities "$work/rootfs/etc/host-authorities.crt"
            changes=(--change "ENV PIP_CERT=/etc/host-authorities.crt")
        fi
        tar -C "$work/rootfs" -c . | docker import "${changes[@]}" - "$BASE" >/dev/null
        rm -rf --one-file-system "$work/rootfs"
    fi
fi
# The engine's own network may have no way out, as that of an engine started here.
options=(--network host --force-rm)
[ -z "${BASE:-}" ] || options+=(--build-arg "BASE=$BASE")

echo "== build"
# The classic builder shares the host's network; its notice about being old says nothing about the image.
DOCKER_BUILDKIT=0 IMAGE=$image docker/build.sh --quiet "${options[@]}"
size=$(docker image inspect --format '{{.Size}}' "$image")
echo "size: $size bytes"
[ "$size" -lt "$limit_bytes" ] || { echo "expected less than $limit_bytes bytes" >&2; exit 1; }

echo "== no root, any user, no network"
[ "$(docker run --rm "$image" id -u)" != 0 ] || { echo "expected another user than root" >&2; exit 1; }
docker run --rm --network none --user 54321:54321 "$image" python -c '
from armory_mdnf.defenses import MDNF
from armory_mdnf.plugin.model import get_art_model
MDNF(), get_art_model({"weights": "ds2_base"}, {}, None)'

echo "== $utterances utterances of $config, on the host and in the image"
[ ${#caller[@]} = 0 ] || chown 1234:1234 "$home"
as_caller "${python[@]}" -m armory configure --use-defaults >/dev/null
run() { # NAME CONFIG
    as_caller touch "$home/started"
    as_caller "${python[@]}" -m armory run "$2" --num-eval-batches "$utterances" --log-level armory:METRIC
    as_caller "${python[@]}" -m armory_mdnf.cli record --partial --newer-than "$home/started" "$home/$1.json"
}
"$bin/python" - "$config" "$image" >"$work/in_docker.json" <<'END'
import json, sys
config = json.load(open(sys.argv[1]))
config["sysconfig"]["docker_image"] = sys.argv[2]
print(json.dumps(config))
END
run host "$config"
# Armory mounts the working directory: from another one than the clone's, the code and the weights are the image's own.
(cd "$home" && run image "$work/in_docker.json")

strangers=$(find "$home" ! -user "$(as_caller id -u)")
[ -z "$strangers" ] || { echo "expected every result to belong to the caller, found: $strangers" >&2; exit 1; }
"$bin/python" - "$home/host.json" "$home/image.json" <<'END'
import json, sys
host, image = (json.load(open(path)) for path in sys.argv[1:])
for key in ("seed", "wer", "utterances"):
    if host[key] != image[key]:
        sys.exit(f"{key}: expected what the host gave,\n{host[key]}\nfound in the image\n{image[key]}")
print(f"the same on the host and in the image, to the last digit: WER {host['wer']}, {len(host['utterances'])} utterances")
END
echo "run and results by user $(as_caller id -u)"
