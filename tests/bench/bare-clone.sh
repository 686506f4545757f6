#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A clone of a snapshot without fcvm, by commands: namespace, TAP, Firecracker, its load by curl, until the container answers
# over HTTP. Prints the seconds from start to answer. Arguments: data directory, snapshot's directory, port, path.
# shellcheck disable=SC2317 # finish is called by trap
set -euo pipefail
data=$1 snapshot=$2 port=$3 path=$4
name=bare$$ work=$(mktemp -d "$data/bare.XXXXXX") vmm=
finish() {
	[ -z "$vmm" ] || kill -9 "$vmm" 2> /dev/null || true
	ip netns del "$name" 2> /dev/null || true
	rm -rf "$work"
}
trap finish EXIT
began=$EPOCHREALTIME
cd "$work"
cp --reflink=auto --sparse=always "$snapshot/disk.ext4" disk.ext4
ln "$snapshot/image.squashfs" "$snapshot/memory.bin" "$snapshot/vmstate.bin" .
ip netns add "$name"
in_ns() { ip netns exec "$name" "$@"; }
in_ns ip link set lo up
in_ns ip tuntap add tap0 mode tap
in_ns ip addr add 172.16.0.1/30 dev tap0
in_ns ip link set tap0 up
in_ns "$data/bin/firecracker" --api-sock api.sock > vm.log 2>&1 &
vmm=$!
for ((i = 0; i < 2000; i++)); do [ -S api.sock ] && break; sleep 0.005; done
curl -sS --fail-with-body --unix-socket api.sock -X PUT http://localhost/snapshot/load \
	-d '{"snapshot_path":"vmstate.bin","mem_backend":{"backend_type":"File","backend_path":"memory.bin"},"resume_vm":true}'
for ((i = 0; i < 2400; i++)); do
	if in_ns curl -s -o page --max-time 5 "http://172.16.0.2:$port$path"; then
		ended=$EPOCHREALTIME
		echo "$(((${ended/./} - ${began/./}) / 1000))" | sed 's/\(...\)$/.\1/; s/^\./0./'
		exit 0
	fi
	sleep 0.02
done
echo "bare-clone.sh: the container did not answer; the console's end:" >&2
tail -n 20 vm.log >&2
exit 1
