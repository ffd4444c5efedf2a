# syntax=docker/dockerfile:1

# The manifests and empty sources: its content changes only when a dependency does, so the layer that builds the
# dependencies is kept.
FROM debian:bookworm-slim AS skeleton
WORKDIR /src
COPY . .
RUN find . -type f \
      ! -name Cargo.toml ! -name Cargo.lock ! -name rust-toolchain.toml \
      ! -path '*/src/lib.rs' ! -path '*/src/main.rs' ! -path '*/build.rs' \
      ! -path '*/tests/*.rs' ! -path '*/benches/*.rs' -delete \
 && find . -name '*.rs' -print0 | xargs -0 -n 1 sh -c 'echo "fn main() {}" > "$0"' \
 && find . -type d -empty -delete

FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
 && apt-get install --yes --no-install-recommends cmake g++ make \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY --from=skeleton /src .
RUN cargo build --release --locked --package gravity-server --bin gravity
COPY . .
# Sources may carry times older than the skeleton's build; cargo goes by times.
RUN find crates migrations config -type f -print0 | xargs -0 touch \
 && cargo build --release --locked --package gravity-server --bin gravity \
 && cp target/release/gravity /gravity

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/gravity --shell /usr/sbin/nologin gravity \
 && install --directory --owner=gravity --group=gravity --mode=0750 /var/lib/gravity
COPY --from=build /gravity /usr/local/bin/gravity
COPY config /etc/gravity
ENV GRAVITY_CONFIG_DIR=/etc/gravity \
    SERVER_HOST=0.0.0.0 \
    BUFFER_PATH=/var/lib/gravity/buffer
USER gravity
WORKDIR /var/lib/gravity
# The write buffer: acknowledged writes live here until they are in Postgres.
VOLUME /var/lib/gravity
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s --retries=3 CMD ["gravity", "healthcheck"]
ENTRYPOINT ["gravity"]
CMD ["serve"]
