-- SPDX-License-Identifier: Apache-2.0
--- Serves a snapshot's memory to clones, in the foreground: `fcvm snapshot serve`.
local fcvm = require "fcvm"

local args = fcvm.args({
  tag = { "string", "the snapshot", positional = 1 },
  memory = { "string", "how clones get memory: auto, uffd (page by page), file (mapped)", default = "auto", metavar = "HOW" },
  exit_when_idle = { "boolean", "end with the last clone" },
  no_record = { "boolean", "do not record what the first clone touches" },
  any_cpu = { "boolean", "serve a snapshot of another processor model" },
  detach = { "boolean", "leave it running", short = "-d" },
}, { report = false, description = "Serves a snapshot's memory to clones. SIGTERM and Ctrl-C end its clones, then itself." })

local server = fcvm.snapshot(args.tag):serve { memory = args.memory, exit_when_idle = args.exit_when_idle,
  record = not args.no_record, any_cpu = args.any_cpu, detach = args.detach }
print(("Serve PID: %d"):format(server.pid))
if server.socket then print(("Socket: %s"):format(server.socket)) end
io.stdout:flush()
if args.detach then return 0 end

server:take_signals()
server:wait_for "ended"
return server:exit_code()
