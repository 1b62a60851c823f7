#!/bin/sh
# Compile what has to be compiled: Go and C#.
set -eu
cd "$(dirname "$0")"
mkdir -p bin
CGO_ENABLED=0 go build -o bin/count-go count.go
mcs -out:bin/count.exe Count.cs
