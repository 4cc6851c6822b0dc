# syntax=docker/dockerfile:1
# One image: the three services, and `penstock`. Built from a clean clone by `docker build .` or `buildah build .`.
# Mirrors and pinned digests go in by these two arguments.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The same commit gives the same bytes as far as Cargo allows: locked versions, no paths, no symbols, no build time.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols \
    CARGO_PROFILE_RELEASE_DEBUG=false \
    CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo"
COPY . .
# Downloads and compiled dependencies stay in the builder's caches: a change of our code builds our code only.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked \
        --package penstock-api --package penstock-worker --package penstock-dispatcher \
        --package penstock-cli --package penstock-sandbox \
    && mkdir -p /out \
    && cp target/release/penstock target/release/penstock-api target/release/penstock-worker \
          target/release/penstock-dispatcher target/release/penstock-sandbox /out/

# The downstream of demos and tests: `docker build --target sandbox .`
FROM ${RUN_IMAGE} AS sandbox
COPY --from=build /out/penstock-sandbox /usr/local/bin/
USER 65532:65532
EXPOSE 8090
ENTRYPOINT ["/usr/local/bin/penstock-sandbox"]
CMD ["--bind", "0.0.0.0:8090"]

FROM ${RUN_IMAGE} AS penstock
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Penstock" \
      org.opencontainers.image.description="CSV uploads, row by row through rate-limited HTTP APIs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /out/penstock /out/penstock-api /out/penstock-worker /out/penstock-dispatcher /usr/local/bin/
# Nothing is written to the root file system: pipelines are mounted, everything else lives in the engines.
ENV PENSTOCK_BIND=0.0.0.0:8080 \
    PENSTOCK_HEALTH_BIND=0.0.0.0:9090 \
    PENSTOCK_PIPELINES=/etc/penstock/pipelines
USER 65532:65532
EXPOSE 8080 9090
# The API asks itself; the worker's Deployment or compose service says `penstock-worker health`.
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s CMD ["/usr/local/bin/penstock-api", "health"]
CMD ["/usr/local/bin/penstock-api"]
