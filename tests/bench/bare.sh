#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The same job without fcvm, by commands: namespace, TAP, Firecracker, its API by curl, until the container answers over
# HTTP. Prints the seconds from start to answer. Arguments: data directory, image store, plan (a JSON file), port.
# shellcheck disable=SC2317 # finish is called by trap
set -euo pipefail
data=$1 store=$2 plan=$3 port=$4
name=bare$$ work=$(mktemp -d "$data/bare.XXXXXX") vmm=
finish() {
	[ -z "$vmm" ] || kill -9 "$vmm" 2> /dev/null || true
	ip netns del "$name" 2> /dev/null || true
	rm -rf "$work"
}
trap finish EXIT
began=$EPOCHREALTIME
cd "$work"
cp --reflink=auto --sparse=always "$data/rootfs/rootfs.ext4" disk.ext4
ip netns add "$name"
in_ns() { ip netns exec "$name" "$@"; }
in_ns ip link set lo up
in_ns ip tuntap add tap0 mode tap
in_ns ip addr add 172.16.0.1/30 dev tap0
in_ns ip link set tap0 up
in_ns "$data/bin/firecracker" --api-sock api.sock --http-api-max-payload-size 327680 > vm.log 2>&1 &
vmm=$!
for ((i = 0; i < 2000; i++)); do [ -S api.sock ] && break; sleep 0.005; done
api() { # METHOD PATH JSON
	curl -sS --fail-with-body --unix-socket api.sock -X "$1" "http://localhost/$2" -d "$3" > api.out || { cat api.out >&2; exit 1; }
}
api PUT boot-source "{\"kernel_image_path\":\"$data/kernels/vmlinux\",\"initrd_path\":\"$data/kernels/initramfs.cpio\",\"boot_args\":\"console=ttyS0 panic=1 quiet reboot=k 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd ip=172.16.0.2::172.16.0.1:255.255.255.252:bare:eth0:off\"}"
api PUT machine-config '{"vcpu_count":1,"mem_size_mib":512}'
api PUT drives/rootfs '{"drive_id":"rootfs","path_on_host":"disk.ext4","is_root_device":false,"is_read_only":false}'
api PUT drives/image "{\"drive_id\":\"image\",\"path_on_host\":\"$store\",\"is_root_device\":false,\"is_read_only\":true}"
api PUT network-interfaces/eth0 '{"iface_id":"eth0","guest_mac":"02:fc:00:00:00:01","host_dev_name":"tap0"}'
api PUT vsock '{"guest_cid":3,"uds_path":"vsock.sock"}'
api PUT mmds/config '{"version":"V2","network_interfaces":["eth0"]}'
api PUT mmds "@$plan"
api PUT actions '{"action_type":"InstanceStart"}'
for ((i = 0; i < 2400; i++)); do
	if in_ns curl -s -o page --max-time 5 "http://172.16.0.2:$port/"; then
		ended=$EPOCHREALTIME
		echo "$(((${ended/./} - ${began/./}) / 1000))" | sed 's/\(...\)$/.\1/; s/^\./0./'
		exit 0
	fi
	sleep 0.05
done
echo "bare.sh: the container did not answer; the console's end:" >&2
tail -n 20 vm.log >&2
exit 1
