# One image: the three services, and `penstock`. Built from a clean clone by `docker build .` or `buildah build .`.
#
# Tags can be moved. What has to be the same image tomorrow is given with its digest, as mirrors are:
#   docker build --build-arg BUILD_IMAGE=docker.io/library/rust@sha256:… --build-arg RUN_IMAGE=gcr.io/distroless/cc-debian12@sha256:… .
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# What Cargo needs to know of the dependencies and nothing else: manifests, and an empty program in the place of each
# target. A change of our code gives the same bytes here, so the layers of the next stage are taken from the cache: from
# the builder's own, and from one that CI keeps in a registry (--cache-from), where mounted caches do not last.
FROM ${BUILD_IMAGE} AS manifests
WORKDIR /src
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' \
        ! -regex '.*/\(src/\(lib\|main\)\|tests/[^/]*\|tests/[^/]*/main\)\.rs' -delete \
    && find . -name '*.rs' -exec sh -c 'for file; do echo "#![allow(dead_code, missing_docs)] fn main() { }" > "$file"; done' sh {} + \
    && find . -depth -type d -empty -delete \
    && find . -exec touch --date=@0 {} +

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The same commit gives the same bytes as far as Cargo allows: locked versions, no paths, no symbols, no build time.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
COPY --from=manifests /src ./
# What became of the empty programs goes again: Cargo looks at times, and would take it for newer than the code.
RUN cargo build --release --locked \
        --package penstock-api --package penstock-worker --package penstock-dispatcher \
        --package penstock-cli --package penstock-sandbox \
    && find target/release \( -name 'penstock*' -o -name 'libpenstock*' \) -prune -exec rm -r {} +
COPY . .
RUN cargo build --release --locked \
        --package penstock-api --package penstock-worker --package penstock-dispatcher \
        --package penstock-cli --package penstock-sandbox \
    && mkdir /out \
    && cp target/release/penstock target/release/penstock-api target/release/penstock-worker \
          target/release/penstock-dispatcher target/release/penstock-sandbox /out/ \
    && rustc --edition 2024 -O -C strip=symbols -o /out/sleep deploy/sleep.rs

# The downstream of demos and tests: `docker build --target sandbox .`
FROM ${RUN_IMAGE} AS sandbox
COPY --from=build /out/penstock-sandbox /usr/local/bin/
USER 65532:65532
EXPOSE 8090
ENTRYPOINT ["/usr/local/bin/penstock-sandbox"]
CMD ["--bind", "0.0.0.0:8090"]

FROM ${RUN_IMAGE} AS penstock
# `docker build --build-arg VERSION=1.2.3 --build-arg REVISION="$(git rev-parse HEAD)" .`
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=https://github.com/penstock/penstock
ARG LICENSES=Apache-2.0
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="CSV uploads, row by row through rate-limited HTTP APIs" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.licenses="${LICENSES}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/penstock /out/penstock-api /out/penstock-worker /out/penstock-dispatcher /out/sleep /usr/local/bin/
# Nothing is written to the root file system: pipelines are mounted, everything else lives in the engines.
ENV PENSTOCK_BIND=0.0.0.0:8080 \
    PENSTOCK_HEALTH_BIND=0.0.0.0:9090 \
    PENSTOCK_PIPELINES=/etc/penstock/pipelines
USER 65532:65532
EXPOSE 8080 9090
# The API asks itself; the worker's Deployment or compose service says `penstock-worker health`.
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s CMD ["/usr/local/bin/penstock-api", "health"]
CMD ["/usr/local/bin/penstock-api"]
