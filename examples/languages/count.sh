#!/bin/sh
# How many words has a text? The event comes in on standard input; the last line is the result.
set -eu
text=$(sed -n 's/.*"text": *"\([^"]*\)".*/\1/p')
set -f
set -- $text
longest=
for word; do
  [ "${#word}" -le "${#longest}" ] || longest=$word
done
echo "$# words"
printf '{"words": %d, "longest": "%s"}\n' "$#" "$longest"
