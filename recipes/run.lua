-- SPDX-License-Identifier: Apache-2.0
--- Runs a container in a microVM of its own, in the foreground: `fcvm podman run`.
local fcvm = require "fcvm"

local args = fcvm.args({
  image = { "string", "image: a registry reference, oci:DIRECTORY, docker-archive:FILE", positional = 1, metavar = "IMAGE" },
  cmd = { "rest", "command and its arguments instead of the image's own" },
  name = { "string", "name of the VM, unique among the running ones", required = false },
  cpu = { "integer", "processors (2, or as many as this host has)", required = false },
  mem = { "size", "memory: 512M, 2G (default 1G)", required = false },
  env = { "pairs", "variable for the container, K=V, or K to pass ours on", short = "-e" },
  entrypoint = { "string", "program instead of the image's entrypoint", required = false, metavar = "PROGRAM" },
  publish = { "string", "host's port that leads into the VM: [IP:]HOST:GUEST[/tcp|udp], ranges too; HOST 0 is a free one",
    short = "-p", many = true, metavar = "PORTS" },
  health_check = { "string", "URL in the VM that answers when the container is healthy", required = false, metavar = "URL" },
  egress = { "string", "where the VM may go: deny, allow, or a list as 10.0.0.0/8,1.2.3.4:443,example.org (default allow)",
    many = true, metavar = "LIST" },
  network_mode = { "string", "auto, bridged (root), rootless, pasta or slirp4netns", default = "auto", metavar = "MODE" },
  network = { "string", "named network to join, whose members know each other by name", many = true, metavar = "NAME" },
  dns = { "string", "address of a resolver instead of this host's", many = true, metavar = "ADDRESS" },
  dns_search = { "string", "domain that short names are looked for in, instead of this host's", many = true, metavar = "DOMAIN" },
  add_host = { "string", "address of a name: NAME:ADDRESS", many = true, metavar = "ENTRY" },
  label = { "pairs", "label of the VM" },
  pull = { "string", "ask the registry: missing, always or never", default = "missing", metavar = "WHEN" },
  data_dir = { "string", "data directory", required = false, metavar = "DIR" },
  detach = { "boolean", "leave the VM running and print its name", short = "-d" },
}, { report = false, description = "Runs a container in a microVM of its own." })

if args.data_dir then fcvm.paths.set_data(args.data_dir) end

local vm = fcvm.run { image = args.image, cmd = #args.cmd > 0 and args.cmd or nil, name = args.name, cpu = args.cpu,
  mem = args.mem, env = args.env, entrypoint = args.entrypoint, health = args.health_check, publish = args.publish,
  network_mode = args.network_mode, network = args.network, egress = args.egress, dns = args.dns, dns_search = args.dns_search,
  add_host = args.add_host, labels = args.label, pull = args.pull, detach = args.detach,
  output = not args.detach and "inherit" or nil }

if args.detach then
  vm:wait "running"
  print(vm.name)
  return 0
end

vm:wait "exited"
return vm:exit_code()
