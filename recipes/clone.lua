-- SPDX-License-Identifier: Apache-2.0
--- Runs a clone of a snapshot in the foreground: `fcvm snapshot run`.
local fcvm = require "fcvm"

local args = fcvm.args({
  tag = { "string", "the snapshot; a server is started for it and ends with the clone", positional = 1, required = false },
  snapshot = { "string", "the same as an option", required = false, metavar = "TAG" },
  pid = { "integer", "the server that feeds the clone, instead of a snapshot", required = false },
  name = { "string", "name of the clone, unique among the running VMs", required = false },
  env = { "pairs", "variable for commands in the clone, K=V, or K to pass ours on", short = "-e" },
  publish = { "string", "host's port that leads into the clone, as of fcvm run", short = "-p", many = true, metavar = "PORTS" },
  health_check = { "string", "URL in the VM that answers when it is healthy (the snapshot's own)", required = false,
    metavar = "URL" },
  egress = { "string", "where the clone may go, as of fcvm run (default: as the VM that the snapshot was made of)",
    many = true, metavar = "LIST" },
  network_mode = { "string", "auto, bridged (root), rootless, pasta or slirp4netns", default = "auto", metavar = "MODE" },
  network = { "string", "named network to join, whose members know each other by name", many = true, metavar = "NAME" },
  dns = { "string", "address of a resolver instead of this host's", many = true, metavar = "ADDRESS" },
  label = { "pairs", "label of the clone" },
  memory = { "string", "with a snapshot: auto, uffd or file", default = "auto", metavar = "HOW" },
  detach = { "boolean", "leave the clone running and print its name", short = "-d" },
}, { report = false, description = "Runs a clone of a snapshot." })

local tag = args.tag or args.snapshot
if (tag == nil) == (args.pid == nil) then
  fcvm.errors.raise { op = "clone", name = "EINVAL", message = "it needs a snapshot, or a server by --pid",
    hint = "fcvm snapshot ls lists both" }
end

local server = args.pid and fcvm.server(args.pid)
  or fcvm.snapshot(tag):serve { exit_when_idle = true, memory = args.memory, detach = args.detach }
local clone = server:clone { name = args.name, env = args.env, health = args.health_check, labels = args.label,
  publish = args.publish, egress = args.egress, network_mode = args.network_mode, network = args.network, dns = args.dns,
  detach = args.detach, output = not args.detach and "inherit" or nil }

if args.detach then
  clone:wait "running"
  print(clone.name)
  return 0
end
clone:wait "exited"
return clone:exit_code()
