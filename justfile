# Thin: each recipe is one `cargo xtask` command or one tool.

# List the recipes
default:
    @just --list

# Run everything on this machine: stores, demo data, server
dev *arguments:
    cargo xtask dev {{ arguments }}

# Break or mend a part of the running `dev`: postgres|redis|server kill|stop|cont|start
outage part act:
    cargo xtask outage {{ part }} {{ act }}

# All tests, or those named
test *arguments:
    cargo xtask test {{ arguments }}

# Formatting, clippy, docs, dependency rules
lint:
    cargo xtask lint

# Format the code
fmt:
    cargo fmt --all

# Write openapi.json from the code
openapi:
    cargo xtask openapi

# What CI runs
ci:
    .ci/run
