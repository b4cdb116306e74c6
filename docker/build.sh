#!/usr/bin/env bash
# Build the image that the configs of scenario_configs/librispeech name: docker/build.sh [options of docker build]
#
#   docker/build.sh                                                    on Debian 12
#   docker/build.sh --build-arg BASE=nvidia/cuda:TAG
#   docker/build.sh --build-arg EXTRAS=armory,hf,hifigan               for `tiny_en_*` and HiFi-GAN too
#
# IMAGE names it otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
exec docker build --file docker/Dockerfile --tag "${IMAGE:-armory-mdnf}" "$@" .
