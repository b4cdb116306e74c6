#!/usr/bin/env bash
# Prove the image: build it, run the same config in it and on the host, and compare what came out.
#
# Needs a Docker engine: the one that DOCKER_HOST names or `docker info` finds, else dockerd, which root can start here for
# the time of the proof. Needs a base image: BASE, else what the Dockerfile names if the engine has it or can pull it, else
# one that debootstrap makes. Exits with 77 where one of them is not to be had. CONFIG and UTTERANCES choose the run.
set -euo pipefail
cd "$(dirname "$0")/.."
config=${CONFIG:-scenario_configs/mg_mdnf_pgd_l2.json}
utterances=${UTTERANCES:-2}
image=armory-mdnf-proof
limit_bytes=7000000000
bin=$PWD/.venv/bin
export TF_CPP_MIN_LOG_LEVEL=2 MPLBACKEND=Agg KMP_WARNINGS=0

work=$(mktemp -d)
chmod 755 "$work"
engine=
clean_up() {
    docker image rm --force "$image" >/dev/null 2>&1 || true
    if [ -n "$engine" ]; then
        kill "$engine" && wait "$engine" || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT

skip() {
    echo "docker/prove.sh: skipped: $1"
    exit 77
}

# Who runs Armory: the caller, or, where the engine is ours to open, somebody who is not root.
caller=()
if ! docker info >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v dockerd >/dev/null; then
        skip "no Docker engine answers, and none can be started here"
    fi
    export DOCKER_HOST=unix://$work/sock
    user=(setpriv --reuid 1234 --regid 1234 --clear-groups)
    if "${user[@]}" "$bin/armory-mdnf" --help >/dev/null 2>&1; then
        caller=("${user[@]}")
    fi
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

options=(--network host)
if [ -z "${BASE:-}" ] && ! docker pull -q debian:bookworm-slim >/dev/null 2>&1; then
    if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
        skip "no base image: set BASE to a Debian or Ubuntu image that this engine has"
    fi
    BASE=armory-mdnf-proof-base
    debootstrap --variant=minbase bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 \
        || { tail -n 3 "$work/debootstrap.log"; skip "debootstrap cannot make a base image here"; }
    # A package index behind a certificate of this site's own is reached only with the host's list of authorities.
    authorities=/etc/ssl/certs/ca-certificates.crt
    changes=()
    if [ -f $authorities ]; then
        mkdir -p "$work/rootfs/etc/ssl/certs" "$work/rootfs/usr/local/share/ca-certificates"
        cp $authorities "$work/rootfs$authorities"
        cp -r /usr/local/share/ca-certificates/. "$work/rootfs/usr/local/share/ca-certificates/"
        changes=(--change "ENV PIP_CERT=$authorities")
    fi
    tar -C "$work/rootfs" -c . | docker import "${changes[@]}" - "$BASE" >/dev/null
    rm -rf "$work/rootfs"
fi
[ -n "${BASE:-}" ] && options+=(--build-arg "BASE=$BASE")

echo "== build"
# The classic builder shares the host's network; its notice about being old says nothing about the image.
DOCKER_BUILDKIT=0 IMAGE=$image docker/build.sh --quiet "${options[@]}"
size=$(docker image inspect --format '{{.Size}}' "$image")
echo "size: $size bytes"
[ "$size" -lt "$limit_bytes" ] || { echo "expected less than $limit_bytes bytes" >&2; exit 1; }

echo "== no root, any user, no network"
[ "$(docker run --rm "$image" id -u)" != 0 ] || { echo "expected another user than root" >&2; exit 1; }
docker run --rm --network none --user 54321:54321 --env HOME=/tmp "$image" \
    python -c 'from armory_mdnf.plugin.model import get_art_model; get_art_model({"weights": "ds2_base"}, {}, None)'

echo "== $utterances utterances of $config, on the host and in the image"
home=$work/home
mkdir -p "$home"
[ ${#caller[@]} = 0 ] || chown 1234:1234 "$home"
as_caller() { "${caller[@]}" env HOME="$home" NUMBA_CACHE_DIR="$home" "$@"; }
as_caller "$bin/armory" configure --use-defaults >/dev/null
run() { # NAME CONFIG
    as_caller touch "$home/started"
    as_caller "$bin/armory" run "$2" --num-eval-batches "$utterances" --log-level armory:METRIC
    as_caller "$bin/armory-mdnf" record --newer-than "$home/started" "$home/$1.json"
}
"$bin/python" - "$config" "$image" >"$work/in_docker.json" <<'END'
import json, sys
config = json.load(open(sys.argv[1]))
config["sysconfig"]["docker_image"] = sys.argv[2]
print(json.dumps(config))
END
run host "$config"
run image "$work/in_docker.json"

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
